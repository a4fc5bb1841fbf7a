"""`tuppence bench`: races that show in public what a budget promises."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import click

from tuppence.budget.race import Outcome, Race, run_race
from tuppence.core.money import to_dollars, to_nanos
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import DatabaseUnreachable, InvalidInput
from tuppence.language import translator
from tuppence.settings import load_settings
from tuppence.storage.database import without_password
from tuppence.storage.opening import connect

STORES = ("sqlite", "postgres", "redis")
EXIT_BROKEN_PROMISE = 1


@click.group("bench")
def command() -> None:
    """Show under load what is promised."""


@command.command("overshoot")
@click.option("--processes", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1, 1000), default=50, show_default=True, help="Per process."
)
@click.option("--budget", default="1.00", show_default=True, metavar="DOLLARS", help="The limit.")
@click.option("--call", default="0.01", show_default=True, metavar="DOLLARS", help="Cost of each.")
@click.option("--store", type=click.Choice(STORES), default="sqlite", show_default=True)
@click.option("--redis", metavar="URL", help="For --store redis. Default: REDIS_URL.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    help="Race so often, each time for a new budget.",
)
@json_option
@database_option
def overshoot(
    store: str,
    budget: str,
    call: str,
    redis: str | None,
    database: str | None,
    *,
    as_json: bool,
    **size: int,
) -> None:
    """Let all threads of all processes want a budget's money at once; count what is overspent.

    Exit code 1 where more was spent than the limit, or something else than the budget says.
    """
    limit, cost = to_nanos(budget, field="budget"), to_nanos(call, field="call")
    redis_url = _redis_url(redis) if store == "redis" else None
    with _ground(store, database) as url:
        race = Race(url, limit, cost, redis_url=redis_url, **size)
        with _progress(race.rounds * race.attempts, wanted=not as_json) as on_decided:
            outcome = run_race(race, on_decided)
    if as_json:
        click.echo(json.dumps(outcome_document(outcome, store), indent=2))
    else:
        draw_outcome(outcome, store)
    if outcome.spent_over_limit_nanos or outcome.counted_nanos != outcome.spent_nanos:
        sys.exit(EXIT_BROKEN_PROMISE)


def outcome_document(outcome: Outcome, store: str) -> dict[str, object]:
    """Return how a race ended as JSON."""
    race = outcome.race
    return {
        "store": store,
        "processes": race.processes,
        "threads": race.threads,
        "rounds": race.rounds,
        "budget_nanos": race.limit_nanos,
        "call_nanos": race.call_nanos,
        "granted": outcome.granted,
        "refused": outcome.refused,
        "spent_nanos": outcome.spent_nanos,
        "counted_nanos": outcome.counted_nanos,
        "spent_over_limit": to_dollars(outcome.spent_over_limit_nanos),
        "spent_over_limit_nanos": outcome.spent_over_limit_nanos,
        "refused_though_fitting": outcome.refused_though_fitting,
        "seconds": round(outcome.seconds, 6),
        "decisions_per_second": round(outcome.decisions_per_second, 1),
    }


def draw_outcome(outcome: Outcome, store: str) -> None:
    """Print how a race ended as a table."""
    _ = translator(load_settings().language)
    race = outcome.race
    title = _("Race for {limit} ({store})").format(
        limit=exact_dollars(race.limit_nanos), store=store
    )
    what = _("{threads} threads in {processes} processes, {call} each, rounds: {rounds}").format(
        threads=f"{race.attempts:,}",
        processes=race.processes,
        call=exact_dollars(race.call_nanos),
        rounds=f"{race.rounds:,}",
    )
    draw(
        "",
        [Column(title, numeric=False), Column("")],
        [
            [_("granted"), f"{outcome.granted:,}"],
            [_("refused"), f"{outcome.refused:,}"],
            [_("spent over the limit"), exact_dollars(outcome.spent_over_limit_nanos)],
            [_("refused though fitting"), f"{outcome.refused_though_fitting:,}"],
            [_("decisions per second"), f"{outcome.decisions_per_second:,.0f}"],
        ],
        notes=[what],
    )


@contextmanager
def _ground(store: str, database: str | None) -> Iterator[str]:
    """Yield the database to race on; the race leaves nothing in a ledger that others use."""
    url = database or (load_settings().database_url if store == "postgres" else "")
    if store != "redis" and url and _is_postgresql(url) != (store == "postgres"):
        raise InvalidInput(
            f"is not a database for --store {store}",
            field="database",
            value=without_password(url),
            remedy="give --database postgresql://user@host/name or set DATABASE_URL"
            if store == "postgres"
            else "give the path of a file, or leave --database out",
        )
    if _is_postgresql(url):
        with _own_schema(url) as own:
            yield own
    elif url:
        yield url
    else:
        with tempfile.TemporaryDirectory(prefix="tuppence-bench-") as directory:
            yield str(Path(directory) / "bench.db")


def _is_postgresql(url: str) -> bool:
    return url.startswith("postgres")


@contextmanager
def _own_schema(url: str) -> Iterator[str]:
    """Make a schema in a PostgreSQL database, yield the URL that leads into it, and drop it."""
    name = f"tuppence_bench_{secrets.token_hex(6)}"
    separator = "&" if "?" in url else "?"
    with closing(connect(url)) as database:
        database.run(lambda tx: tx.execute(f"CREATE SCHEMA {name}"))
        try:
            yield f"{url}{separator}options={quote(f'-csearch_path={name}')}"
        finally:
            database.run(lambda tx: tx.execute(f"DROP SCHEMA {name} CASCADE"))


def _redis_url(given: str | None) -> str:
    url = given or load_settings().redis_url
    if not url:
        raise InvalidInput(
            "is not set", field="redis", value="", remedy="give --redis URL or set REDIS_URL"
        )
    from tuppence.adapters.redis import RedisScripts  # noqa: PLC0415 - 0.1 s, for --store redis

    with closing(RedisScripts(url)) as server:
        if not server.probe():  # budgets would be kept without it, and the race shows nothing
            raise DatabaseUnreachable(
                "the Redis server does not answer",
                field="redis",
                value=without_password(url),
                remedy="check REDIS_URL and that the server runs",
            )
    return url


@contextmanager
def _progress(total: int, *, wanted: bool) -> Iterator[Callable[[int], object]]:
    """Show a progress bar while a terminal is watching; yield what reports decided calls."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich loads slowly
    from rich.progress import BarColumn, MofNCompleteColumn, Progress  # noqa: PLC0415

    bar = Progress(BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
