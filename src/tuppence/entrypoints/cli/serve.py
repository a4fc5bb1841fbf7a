"""`tuppence serve`: the gateway in the foreground."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click

from tuppence.entrypoints.cli import run
from tuppence.entrypoints.cli.options import database_option
from tuppence.errors import InvalidInput, MissingPackage
from tuppence.language import translator
from tuppence.settings import load_settings

DEFAULT_PORT = 4100


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--no-keys", is_flag=True, help="Let everybody on this machine call.")
@click.option("--hide-amounts", is_flag=True, help="Tell callers of no money.")
@click.option("--stream-costs", is_flag=True, help="End streams with what they cost.")
@click.option(
    "--max-body-mb",
    type=click.IntRange(1, 1_024),
    default=32,
    show_default=True,
    help="Largest request.",
)
@click.option(
    "--wait-seconds",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    help="How long a call waits for money that calls in flight hold.",
)
@click.option(
    "--cache",
    type=click.Choice(["off", "auto"]),
    default="off",
    show_default=True,
    help="Place cache markers in Claude requests.",
)
@click.option(
    "--upstreams",
    type=click.Path(path_type=Path),
    help="TOML file with the places that calls go to.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="How many processes answer.",
)
@database_option
def command(host: str, port: int, **options: Any) -> None:
    """Serve the gateway until Ctrl-C: point clients at it by their base URL alone."""
    modules = _modules()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    if options["no_keys"] and not modules.server.is_loopback(host):
        raise InvalidInput(
            "does not go with --no-keys: others could spend your money",
            field="host",
            value=host,
            remedy="make keys with: tuppence key create, or listen on 127.0.0.1",
        )
    if options["workers"] == 1:
        _serve_here(modules, host, port, options)
    else:
        sys.exit(_serve_with_workers(modules, host, port, options))


class _Modules(NamedTuple):
    """What comes with an extra."""

    application: ModuleType
    server: ModuleType
    workers: ModuleType


def _modules() -> _Modules:
    try:
        from tuppence.entrypoints.gateway import (  # noqa: PLC0415 - an extra
            application,
            server,
            workers,
        )
    except ModuleNotFoundError as error:
        raise MissingPackage(
            "is not installed",
            field="package",
            value=error.name,
            remedy='install "tuppence[gateway]"',
        ) from error
    return _Modules(application, server, workers)


def _serve_here(modules: _Modules, host: str, port: int, options: Mapping[str, Any]) -> None:
    with modules.server.listen(host, port) as listener:
        gateway = _gateway(modules, listener, options)
        _tell(modules.server.base_url_of(listener), options)
        with suppress(KeyboardInterrupt):  # the server has stopped in good order by then
            modules.server.serve(gateway, listener)


def _serve_with_workers(modules: _Modules, host: str, port: int, options: Mapping[str, Any]) -> int:
    listeners = modules.workers.sockets_for(options["workers"], host, port)
    base_url = modules.server.base_url_of(listeners[0])

    def work(listener: socket.socket, lifeline: Any) -> None:
        """Be one of the processes that answer."""
        run(lambda: modules.server.serve(_gateway(modules, listener, options), listener, lifeline))

    exit_code: int = modules.workers.Workers(
        listeners, work, lambda: _tell(base_url, options)
    ).run()
    return exit_code


def _gateway(modules: _Modules, listener: socket.socket, options: Mapping[str, Any]) -> Any:
    return modules.application.Gateway(
        modules.application.GatewayOptions(
            database_url=options["database"],
            needs_key=not options["no_keys"],
            shows_amounts=not options["hide_amounts"],
            tells_stream_costs=options["stream_costs"],
            most_body_bytes=options["max_body_mb"] * 1024 * 1024,
            wait_seconds=options["wait_seconds"],
            cache=options["cache"],
            upstreams_path=options["upstreams"],
            own_urls=modules.server.own_urls(listener),
        )
    )


def _tell(base_url: str, options: Mapping[str, Any]) -> None:
    _ = translator(load_settings().language)
    if options["workers"] == 1:
        click.echo(_("The gateway serves {url}; Ctrl-C stops it.").format(url=base_url))
    else:
        told = _("The gateway serves {url} with {count} workers; Ctrl-C stops it.")
        click.echo(told.format(url=base_url, count=options["workers"]))
    key = "" if options["no_keys"] else "tpc-..."
    anthropic_key = f" ANTHROPIC_API_KEY={key}" if key else ""
    openai_key = f" OPENAI_API_KEY={key}" if key else ""
    click.echo(f"  ANTHROPIC_BASE_URL={base_url}{anthropic_key} claude")
    click.echo(f"  OPENAI_BASE_URL={base_url}/v1{openai_key} python my_program.py")
