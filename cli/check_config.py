"""`tapedeck check-config`: what a configuration becomes, or everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapedeck.cli.common import DEFAULT_CONFIG, ConfigOption, Failed, JsonOption

if TYPE_CHECKING:
    from tapedeck.config.model import Lookup


def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The configuration to check.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration, with the environment's TAPEDECK_<SECTION>__<KEY> over it.

    Prints what it became, defaults included and secrets as ***; or every problem, a line each.
    What `lookup.nutcracker` names is read too, with a remark where twemproxy means something else.

    Example: tapedeck check-config tapedeck.yml
    """
    import yaml

    from tapedeck.config.load import ConfigError, load
    from tapedeck.gateway.live import masked

    path = file or config
    try:
        sections = load(path)
    except ConfigError as error:
        if as_json:
            typer.echo(json.dumps({"source": str(path), "problems": error.problems}, indent=2))
        else:
            for problem in error.problems:
                typer.echo(problem)
        number = len(error.problems)
        raise Failed(f"{path}: {number} problem{'s' if number > 1 else ''}") from None
    shown = masked(sections)
    notes = _notes(sections.lookup)
    if as_json:
        answer = {"source": str(path), "config": shown, "notes": notes}
        typer.echo(json.dumps(answer, indent=2))
    else:
        for note in notes:
            typer.echo(f"# {note}")
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)


def _notes(lookup: Lookup) -> list[str]:
    """What to know of a nutcracker.yml that stands behind `lookup`."""
    if lookup.nutcracker is None:
        return []
    from tapedeck.config.nutcracker import read_pool

    pool = read_pool(Path(lookup.nutcracker), lookup.pool)
    notes = [
        f"{word}: {note}"
        for word, note in pool.notes.items()
        # What stands beside the pool, over its own, needs no remark.
        if word not in pool.words or getattr(lookup, word) == pool.words[word]
    ]
    if lookup.layout == "packed":
        notes.append(
            "layout: packed; an application that goes through nutcracker cannot read these "
            "entries (layout: flat is the original's)"
        )
    return notes
