"""`tapedeck serve`: the gateway, without a stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import DEFAULT_CONFIG, ConfigOption, Failed


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, help="Processes that share the port."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="The gateway's port; 0 for a free one."),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option("--admin-port", min=0, max=65535, help="The admin port; 0 for a free one."),
    ] = None,
) -> None:
    """Run the gateway in the foreground, until Ctrl-C or SIGTERM.

    It starts even if MySQL or lookup nodes are down, and serves once MySQL is up. SIGHUP reloads
    the configuration. It logs JSON lines on standard output.

    Example: tapedeck serve --config tapedeck.yml --workers 2
    """
    # Slow imports, which `tapedeck --help` does not need.
    from gateway.http.listening import PortTaken
    from gateway.process.worker import Refused
    from gateway.reload.runtime_config import Source

    overrides = {
        f"TAPEDECK_{name}": str(value)
        for name, value in (
            ("GATEWAY__WORKERS", workers),
            ("GATEWAY__PORT", port),
            ("ADMIN__PORT", admin_port),
        )
        if value is not None
    }
    source = Source(Path(config), overrides)
    sections = source.load()
    try:
        if sections.gateway.workers > 1:
            from gateway.process.supervisor import run_with_workers

            status = run_with_workers(source, sections)
        else:
            from gateway.process.worker import run_alone

            status = run_alone(source, sections)
    except (PortTaken, Refused) as error:
        raise Failed(str(error)) from None
    raise typer.Exit(status)
