"""`tuppence budget` and `tuppence bench` as users meet them: exit codes, tables, JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_command_line import read_from, tuppence
from tuppence.budget.race import START_WITHIN_SECONDS, Race, run_race
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.money import NANOS_PER_DOLLAR as DOLLAR
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.ledger import Ledger as TheLedger
from tuppence.errors import BudgetPaused, InvalidInput, LedgerError
from tuppence.settings import current_user
from tuppence.storage.opening import connect, revision_of

PLATFORM = ("team", "platform")


class Ledger:
    """A ledger as the command line and a program see it."""

    def __init__(self, database: str) -> None:
        self.database = database

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `tuppence budget ...` on it."""
        return tuppence("budget", *arguments, "--database", self.database, **environment)

    def text(self, *arguments: str, **environment: str) -> str:
        """Return what a command prints, which has to succeed."""
        done = self.run(*arguments, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Return what a command says with --json."""
        return json.loads(self.text(*arguments, "--json"))

    def abandon(self, dollars: str, **payer: Any) -> None:
        """Hold money for a call and leave it there."""
        throttler = BudgetThrottler(database_url=self.database)
        with throttler.hold(dollars, **payer):
            pass
        throttler.close()


@pytest.fixture
def ledger(sqlite_url: str) -> Ledger:
    """A ledger in which the team platform has $50 a month and $500.123456789 in 24 hours."""
    month = NewBudget(*PLATFORM, 50 * DOLLAR)
    window = NewBudget(
        *PLATFORM,
        500_123_456_789,
        time_zone="Asia/Taipei",
        period="rolling",
        window_seconds=86_400,
        mode="expected",
        reserved_shares=(0.0, 0.0, 0.2, 0.1),
    )
    with TheLedger.open(sqlite_url) as made:
        made.create_budget(month, by="ann")
        made.create_budget(window, by="ann")
    return Ledger(sqlite_url)


def test_what_is_not_given_stays_as_it_was(ledger: Ledger) -> None:
    """Setting a new limit must leave all else alone; what is given must change."""
    (changed,) = ledger.json("set", *PLATFORM, "6", "--window", "24h")
    assert (changed["limit_nanos"], changed["period"]) == (6 * DOLLAR, "rolling")
    assert (changed["mode"], changed["time_zone"]) == ("expected", "Asia/Taipei")
    assert changed["reserved_shares"] == "high=0.2,critical=0.1"
    options = ("--warning", "0.5", "--critical", "0.6", "--critical-ceiling", "0", "--mode", "soft")
    (changed,) = ledger.json("set", *PLATFORM, "7", "--overdraft", "0.02", *options)
    assert (changed["period"], changed["mode"], changed["time_zone"]) == ("month", "soft", "UTC")
    assert (changed["warning_threshold"], changed["critical_threshold"]) == (0.5, 0.6)
    assert (changed["critical_ceiling"], changed["overdraft_share"]) == (0.0, 0.02)
    assert [one["limit_nanos"] for one in ledger.json("list")] == [7 * DOLLAR, 6 * DOLLAR]


@pytest.mark.parametrize("period", ["hour", "day", "week", "total"])
def test_every_period_can_have_a_limit(ledger: Ledger, period: str) -> None:
    """A budget of each period must be made, with the moment at which it begins anew."""
    options = ("--period", period, "--reserve", "high=0.5", "--tz", "Asia/Taipei")
    (made,) = ledger.json("set", "tag", "nightly", "3", *options)
    assert (made["entity_type"], made["entity_id"], made["period"]) == ("tag", "nightly", period)
    assert (made["time_zone"], made["reserved_shares"]) == ("Asia/Taipei", "high=0.5")
    assert (made["resets_at"] is None) == (period == "total")
    assert made["resets_at"] == made["period_end"]


def test_show_has_all_periods_with_every_amount(ledger: Ledger) -> None:
    """`show` must say what is spent, held, unresolved and left, and which alerts were raised."""
    throttler = BudgetThrottler(database_url=ledger.database)
    throttler.record_usage("45.000000001", team_id="platform")
    ledger.abandon("0.25", team_id="platform")
    throttler.hold("0.125", team_id="platform")
    throttler.close()
    month, window = ledger.json("show", *PLATFORM)
    assert (month["limit_nanos"], month["spent_nanos"]) == (50 * DOLLAR, 45_250_000_001)
    assert (month["held_nanos"], month["unresolved_nanos"]) == (125_000_000, 250_000_000)
    assert month["remaining_nanos"] == 50 * DOLLAR - 45_375_000_001
    assert (month["state"], month["mode"], month["paused"]) == ("warning", "strict", False)
    assert [alert["severity"] for alert in month["alerts"]] == ["warning"]
    assert (window["window_seconds"], window["resets_at"], window["alerts"]) == (86_400, None, [])
    table = ledger.text("show", *PLATFORM)
    for amount in ("$50.00", "$45.250000001", "$0.125", "$0.25", "$4.624999999", "$500.123456789"):
        assert f" {amount} " in table
    for word in ("Team platform, month", "Team platform, 24h", "expected", "rolls on", "Alert"):
        assert word in table


@pytest.mark.parametrize(
    ("spent", "options", "code", "words"),
    [
        ("0", (), 0, "Team platform, month: within, $50.00 of $50.00 left"),
        ("49.5", ("--cost", "0.5"), 0, "within, $0.50 of $50.00 left"),
        ("49.5", ("--cost", "0.500000001"), 1, "$0.500000001 does not fit, $0.50 of $50.00"),
        ("50", (), 0, "within, $0.00 of $50.00 left"),
        ("50.000000001", (), 1, "Team platform, month: over by $0.000000001, the limit is $50.00"),
    ],
)
def test_check_is_for_pipelines(
    ledger: Ledger, spent: str, options: tuple[str, ...], code: int, words: str
) -> None:
    """`check` must say in one line, and with its exit code, whether the fullest budget is over."""
    throttler = BudgetThrottler(database_url=ledger.database)
    throttler.record_usage(spent, team_id="platform")
    throttler.close()
    done = ledger.run("check", *PLATFORM, *options)
    assert (done.returncode, done.stderr) == (code, "")
    assert words in done.stdout
    assert done.stdout.count("\n") == 1
    machine = ledger.run("check", *PLATFORM, *options, "--json")
    document = json.loads(machine.stdout)
    assert (machine.returncode, document["within"]) == (code, code == 0)
    assert [one["within"] for one in document["budgets"]] == [code == 0, True]


@pytest.mark.parametrize(
    "arguments",
    [
        ("team", "nobody"),
        (*PLATFORM, "--cost", "NaN"),
        ("planet", "mars"),
        (*PLATFORM, "--database", "postgresql://nobody@127.0.0.1:1/x"),
    ],
)
def test_check_tells_an_error_from_a_budget_that_is_over(
    ledger: Ledger, arguments: tuple[str, ...]
) -> None:
    """An unknown budget, a wrong value or a database that is down must exit with 2, never 1."""
    done = tuppence("budget", "check", *arguments, DATABASE_URL=ledger.database)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_history_says_who_changed_what_when_from_what_to_what(ledger: Ledger) -> None:
    """Each change must be on record with its author; the account is the author by default."""
    ledger.text("set", *PLATFORM, "60", "--by", "bob")
    ledger.text("raise", *PLATFORM, "0.5", "--period", "month", "--permanent")
    *made, changed, raised = ledger.json("history", *PLATFORM)
    assert [(one["action"], one["changed_by"], one["before"]) for one in made] == [
        ("set", "ann", {}),
        ("set", "ann", {}),
    ]
    assert (changed["changed_by"], changed["period"]) == ("bob", "month")
    assert changed["before"] == {"limit_nanos": 50 * DOLLAR}
    assert changed["after"] == {"limit_nanos": 60 * DOLLAR}
    assert (raised["action"], raised["changed_by"]) == ("raise", current_user())
    assert raised["after"] == {"limit_nanos": 60_500_000_000}
    table = ledger.text("history", *PLATFORM, COLUMNS="80")
    assert "limit: $50.00 → $60.00" in table
    assert "limit: $60.00 → $60.50" in table
    assert "limit: $500.123456789" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_raise_is_for_this_period_unless_it_is_permanent(ledger: Ledger) -> None:
    """A raise must leave the limit of later periods alone; which budget it is for must be clear."""
    (raised,) = ledger.json("raise", *PLATFORM, "10", "--period", "month")
    assert (raised["limit_nanos"], raised["raised_nanos"]) == (60 * DOLLAR, 10 * DOLLAR)
    (raised,) = ledger.json("raise", *PLATFORM, "1", "--window", "24h", "--permanent")
    assert (raised["limit_nanos"], raised["raised_nanos"]) == (501_123_456_789, 0)
    unclear = ledger.run("raise", *PLATFORM, "10")
    assert (unclear.returncode, unclear.stderr.count("\n")) == (2, 1)
    assert "Team platform, month; Team platform, 24h" in unclear.stderr
    unknown = ledger.run("raise", *PLATFORM, "10", "--window", "7d")
    assert (unknown.returncode, "window='7d'" in unknown.stderr) == (2, True)


def test_a_paused_budget_refuses_every_call_until_it_is_resumed(ledger: Ledger) -> None:
    """`pause` must stop calls at once, also in programs that run; `--resume` lets them through."""
    throttler = BudgetThrottler(database_url=ledger.database)
    throttler.hold("0.01", team_id="platform", user_id="ann").release()
    assert [one["paused"] for one in ledger.json("pause", *PLATFORM)] == [True, True]
    with pytest.raises(BudgetPaused):
        throttler.hold("0.01", priority="critical", team_id="platform", user_id="ann")
    done = ledger.run("check", *PLATFORM)
    assert (done.returncode, done.stdout) == (1, "Team platform, month: paused\n")
    resumed = ledger.json("pause", *PLATFORM, "--resume")
    assert [one["paused"] for one in resumed] == [False, False]
    throttler.hold("0.01", team_id="platform", user_id="ann").release()
    throttler.close()


def test_an_abandoned_hold_is_listed_and_gets_its_true_cost(ledger: Ledger) -> None:
    """An unresolved hold must be listed with who, bound and since, until its cost is booked."""
    ledger.abandon("0.5", team_id="platform", user_id="ann", tags=("nightly",))
    table = ledger.text("unresolved", COLUMNS="80")
    for words in ("Team platform", "User ann", "Tag nightly", "$0.50"):
        assert words in table
    (hold,) = ledger.json("unresolved")
    assert (hold["bound_nanos"], hold["id"] in table) == (DOLLAR // 2, True)
    assert {"entity_type": "user", "entity_id": "ann"} in hold["scopes"]
    assert hold["held_at"] <= hold["unresolved_since"]
    settled = ledger.json("unresolved", "--settle", hold["id"], "0.0123", "--by", "bob")
    assert settled == {"id": hold["id"], "settled_nanos": 12_300_000}
    assert ledger.text("unresolved") == "No hold is unresolved.\n"
    month, _ = ledger.json("show", *PLATFORM)
    assert (month["spent_nanos"], month["unresolved_nanos"]) == (12_300_000, 0)
    record = ledger.json("history", *PLATFORM)[-1]
    assert (record["action"], record["changed_by"]) == ("resolve", "bob")
    assert (record["before"]["hold"], record["after"]["settled_nanos"]) == (hold["id"], 12_300_000)
    again = ledger.run("unresolved", "--settle", hold["id"], "1")
    assert (again.returncode, "was settled at" in again.stderr) == (1, True)


def test_a_hold_whose_owner_died_is_unresolved_when_its_lease_has_run_out(ledger: Ledger) -> None:
    """The command itself must look after leases: there may be no other process left."""
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    throttler = BudgetThrottler(database_url=ledger.database, now=lambda: an_hour_ago)
    name = throttler.hold("0.5", lease_seconds=60, team_id="platform").id
    throttler.close()
    released = ledger.json("unresolved", "--release", name)
    assert released == {"id": name, "settled_nanos": 0}
    month, _ = ledger.json("show", *PLATFORM)
    assert (month["spent_nanos"], month["held_nanos"], month["unresolved_nanos"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "team", "eng", "5", "--window", "3x"), "window='3x': is not the length"),
        (("set", "team", "eng", "5", "--window", "3h", "--period", "day"), "does not go with"),
        (("set", "team", "eng", "5", "--period", "rolling"), "window=None: is missing"),
        (("set", "team", "eng", "5", "--reserve", "much=1"), "reserved_shares='much=1'"),
        (("set", "team", "eng", "5", "--critical", "1.5"), "critical threshold 1.5"),
        (("set", "team", "eng", "5", "--tz", "Mars"), "is not a known time zone"),
        (("set", "team", "", "5"), "entity_id='': is empty"),
        (("raise", *PLATFORM, "0", "--period", "month"), "is not an amount to raise"),
        (("show", "user", "nobody"), "user='nobody': has no budget"),
        (("history", "user", "nobody"), "user='nobody': has no budget"),
        (("pause", *PLATFORM, "--period", "hour"), "has no budget for the period hour"),
        (("unresolved", "--settle", "x1", "5"), "hold='x1': is not the id of a hold"),
        (("unresolved", "--settle", "h1", "5", "--release", "h2"), "release='h2': does not go"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    ledger: Ledger, arguments: tuple[str, ...], words: str
) -> None:
    """What cannot be used must be named in one line, and nothing changed."""
    done = ledger.run(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_tables_fit_and_keep_amounts_whole(ledger: Ledger, columns: int) -> None:
    """No line may be longer than the terminal is wide, and no amount may be cut."""
    ledger.abandon("499.999999999", user_id="a-name-of-some-length", tags=("nightly",))
    for command, amounts in (
        (("list",), ("$50.00", "$500.12")),
        (("show", *PLATFORM), ("$50.00", "$500.123456789")),
        (("unresolved",), ("$499.999999999",)),
    ):
        output = ledger.text(*command, COLUMNS=str(columns))
        assert max(map(len, output.splitlines())) <= columns
        assert [amount for amount in amounts if amount not in output] == []


def test_budgets_are_told_in_chinese(ledger: Ledger) -> None:
    """Texts must follow the language of the reader; codes and JSON must not."""
    chinese = ledger.text("show", *PLATFORM, LANG="zh_TW.UTF-8")
    for words in ("團隊 platform, 每月", "待釐清", "持續滾動", "預估"):
        assert words in chinese
    assert "Unresolved" not in chinese
    done = ledger.run("check", *PLATFORM, LANG="zh_TW.UTF-8")
    assert (done.returncode, "未超支" in done.stdout) == (0, True)
    machine = json.loads(ledger.text("show", *PLATFORM, "--json", LANG="zh_TW.UTF-8"))
    assert (machine[0]["period"], machine[1]["mode"]) == ("month", "expected")


SMALL = (
    "--processes",
    "3",
    "--threads",
    "10",
    "--budget",
    "1.05",
    "--call",
    "0.1",
    "--rounds",
    "2",
)


@pytest.mark.parametrize("store", ["sqlite", "postgres", "redis"])
def test_the_race_grants_exactly_what_fits(store: str, request: pytest.FixtureRequest) -> None:
    """30 calls of $0.10 want $1.05 at once: 10 must be granted, in every round, on every store."""
    where = {
        "sqlite": lambda: (),
        "postgres": lambda: ("--database", request.getfixturevalue("postgresql_url")),
        "redis": lambda: ("--redis", request.getfixturevalue("redis_url")),
    }[store]()
    done = tuppence("bench", "overshoot", "--store", store, *SMALL, *where, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["granted"], document["refused"]) == (20, 40)
    assert (document["spent_nanos"], document["counted_nanos"]) == (2 * DOLLAR, 2 * DOLLAR)
    assert (document["spent_over_limit"], document["spent_over_limit_nanos"]) == (0, 0)
    assert document["refused_though_fitting"] == 0
    assert document["decisions_per_second"] > 0


def test_the_race_leaves_nothing_in_a_ledger_of_others(postgresql_url: str) -> None:
    """On PostgreSQL the race must take place in a schema of its own, which is gone afterwards."""
    done = tuppence(
        "bench", "overshoot", "--store", "postgres", *SMALL[:4], DATABASE_URL=postgresql_url
    )
    assert (done.returncode, "spent over the limit" in done.stdout) == (0, True)
    with closing(connect(postgresql_url)) as database:
        schemas = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'tuppence%'"
        assert database.read(lambda tx: tx.rows(schemas)) == []
        assert revision_of(database) is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--store", "postgres"), 2, "set DATABASE_URL"),
        (("--store", "sqlite", "--database", "postgresql://x/y"), 2, "--store sqlite"),
        (("--store", "redis"), 2, "redis='': is not set"),
        (("--store", "redis", "--redis", "redis://127.0.0.1:1"), 1, "does not answer"),
        (("--call", "0"), 2, "call=0: is not enough for a race"),
        (("--budget", "NaN"), 2, "budget='NaN': is not a finite amount"),
        (("--store", "postgres", "--database", "postgresql://x@127.0.0.1:1/x"), 1, "not answer"),
    ],
)
def test_a_race_that_cannot_be_run_says_why(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    """What is missing or does not answer must be named in one line."""
    done = tuppence("bench", "overshoot", *arguments, DATABASE_URL="", REDIS_URL="")
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert words in done.stderr


def test_a_race_needs_somebody_who_races() -> None:
    """A race without threads must be refused, not reported as a success."""
    with pytest.raises(InvalidInput, match="threads=0: is not enough for a race"):
        Race("", DOLLAR, DOLLAR, threads=0)


def test_a_failing_process_ends_the_race(tmp_path: Path) -> None:
    """What a process of the race fails with must be raised where the race was started."""
    race = Race(str(tmp_path / "x.db"), DOLLAR, DOLLAR, 2, 2, redis_url="nonsense://")
    with pytest.raises(LedgerError, match="is not the address of a Redis server"):
        run_race(race)
    assert multiprocessing.active_children() == []


def test_a_killed_process_ends_the_race(tmp_path: Path) -> None:
    """A process that dies between two rounds must be noticed at once, not waited for."""

    def kill_one(_: int) -> None:
        for process in multiprocessing.active_children()[:1]:
            process.kill()

    race = Race(str(tmp_path / "x.db"), DOLLAR, DOLLAR, 2, 2, rounds=1000)
    began = time.monotonic()
    with pytest.raises(LedgerError, match="a process has ended without a result"):
        run_race(race, kill_one)
    assert time.monotonic() - began < START_WITHIN_SECONDS / 2
    assert multiprocessing.active_children() == []


def test_ctrl_c_ends_all_processes_of_a_race() -> None:
    """A Ctrl-C in a terminal must end the race at once, with 130 and no process left."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuppence", "bench", "overshoot", *SMALL[:4], "--rounds", "99999"],
        stderr=theirs,
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while not re.search(rb"[1-9]\d*/2999970", seen):  # calls have had their answers
        chunk = read_from(ours)
        assert chunk, seen
        seen += chunk
    os.killpg(process.pid, signal.SIGINT)
    while chunk := read_from(ours):  # ends when all processes have closed the terminal
        seen += chunk
    assert process.wait(timeout=60) == 130
    os.close(ours)
    assert b"interrupted" in seen
    assert b"Traceback" not in seen
