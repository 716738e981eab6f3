"""`tapedeck check-config`: what a configuration becomes, or everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tapedeck.cli.common import DEFAULT_CONFIG, ConfigOption, Failed, JsonOption


def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The configuration to check.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration, with the environment's TAPEDECK_<SECTION>__<KEY> over it.

    Prints what it became, defaults included and secrets as ***; or every problem, a line each.

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
    if as_json:
        typer.echo(json.dumps({"source": str(path), "config": shown}, indent=2))
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
