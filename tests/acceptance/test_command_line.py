"""The command line as users meet it: processes, exit codes, narrow terminals, interruptions."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LINE = (
    '{"type":"assistant","timestamp":"2026-01-0%dT12:00:00Z","sessionId":"s%d",'
    '"message":{"id":"m%d","model":"%s","stop_reason":"end_turn","usage":{"input_tokens":1000,"output_tokens":100}}}\n'
)


def tuppence(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tuppence", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "LANG": "C.UTF-8", "COLUMNS": "120", **environment},
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A session log: three calls of Opus 4.5 on three days, one of an unknown model."""
    path = tmp_path / "session.jsonl"
    models = ["claude-opus-4-5-20251101"] * 3 + ["acme-large-1"]
    path.write_text(
        "".join(LINE % (day + 1, day, day, model) for day, model in enumerate(models))
        + '{"broken\n'
    )
    return path


@pytest.fixture
def imported(log: Path, database_url: str) -> str:
    """A ledger that holds the log, on both databases."""
    done = tuppence("import", "claude-code", log, "--team", "eng", "--database", database_url)
    assert done.returncode == 0, done.stderr
    return database_url


def test_an_import_tells_what_it_did(log: Path, database_url: str) -> None:
    """An import names lines, requests and amounts, shows bad lines, and books once."""
    done = tuppence("import", "claude-code", log, "--database", database_url)
    assert "5 lines in 1 files: 4 requests, 4 new, 0 known already." in done.stdout
    assert "Booked: $0.0225" in done.stdout
    assert "1 requests are unpriced" in done.stdout
    assert f"{log}:5" in done.stderr
    again = tuppence("import", "claude-code", log, "--database", database_url, "--json")
    document = json.loads(again.stdout)
    assert (document["booked_requests"], document["duplicate_requests"]) == (0, 4)
    assert (document["malformed_lines"], document["booked"]["cost_nanos"]) == (1, 0)


def test_json_is_a_contract(imported: str) -> None:
    """`report --json` has rows and total with integer nano-dollars and counts of what is open."""
    document = json.loads(
        tuppence("report", "--by", "team", "--json", "--database", imported).stdout
    )
    (row,) = document["rows"]
    assert row["entity"] == "eng"
    for figures in (row, document["total"]):
        assert figures["cost_nanos"] == 22_500_000
        assert (figures["requests"], figures["unpriced_requests"]) == (4, 1)
        assert figures["output_incomplete_requests"] == 0
        assert figures["input_tokens"] == 4000


@pytest.mark.parametrize(
    ("by", "entities"),
    [
        ("model", ["claude-opus-4-5-20251101", "acme-large-1"]),
        ("day", ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]),
        ("week", ["2026-W01"]),
        ("month", ["2026-01"]),
        ("session", ["s0", "s1", "s2", "s3"]),
        ("project", ["(unattributed)"]),
        ("user", ["(unattributed)"]),
    ],
)
def test_every_grouping_answers(imported: str, by: str, entities: list[str]) -> None:
    """Each grouping gives its entities, and the same total."""
    document = json.loads(tuppence("report", "--by", by, "--json", "--database", imported).stdout)
    assert [row["entity"] for row in document["rows"]] == entities
    assert document["total"]["cost_nanos"] == 22_500_000
    assert sum(row["cost_nanos"] for row in document["rows"]) == 22_500_000


def test_dates_are_half_open_and_local(imported: str) -> None:
    """--since is included, --until is not; --tz says whose days they are."""
    command = ("report", "--by", "day", "--json", "--database", imported)
    part = tuppence(*command, "--since", "2026-01-02", "--until", "2026-01-03")
    assert [row["entity"] for row in json.loads(part.stdout)["rows"]] == ["2026-01-02"]
    shifted = tuppence(*command, "--tz", "Pacific/Kiritimati", "--since", "2026-01-05")
    assert [row["entity"] for row in json.loads(shifted.stdout)["rows"]] == ["2026-01-05"]


def test_csv_is_for_machines(imported: str) -> None:
    """`report --csv` has a heading and a row per entity, with integers."""
    output = tuppence("report", "--by", "model", "--csv", "--database", imported).stdout
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["model"] for row in rows] == ["claude-opus-4-5-20251101", "acme-large-1"]
    assert rows[0]["cost_nanos"] == "22500000"


def test_a_table_fits_a_narrow_terminal(imported: str) -> None:
    """At 80 columns no line is longer; cost, share and total are there, cache columns are not."""
    output = tuppence("report", "--by", "model", "--database", imported, COLUMNS="80").stdout
    assert max(map(len, output.splitlines())) <= 80
    assert "Cache read" not in output
    assert "$0.02*" in output
    assert "unpriced*" in output
    assert "Total" in output
    assert "Cache read" in tuppence("report", "--database", imported).stdout


@pytest.mark.parametrize("columns", [40, 60])
def test_amounts_stay_whole_in_very_narrow_terminals(imported: str, columns: int) -> None:
    """At 40 and 60 columns no line is longer, and the amounts are not cut."""
    output = tuppence(
        "report", "--by", "model", "--database", imported, COLUMNS=str(columns)
    ).stdout
    assert max(map(len, output.splitlines())) <= columns
    assert "$0.02*" in output


def test_people_read_their_language(imported: str) -> None:
    """Texts are in Traditional Chinese where the locale says so; JSON stays the same."""
    chinese = tuppence("report", "--database", imported, LANG="zh_TW.UTF-8").stdout
    assert "費用" in chinese
    assert "Cost" not in chinese
    command = ("report", "--json", "--database", imported)
    assert tuppence(*command, LANG="zh_TW.UTF-8").stdout == tuppence(*command).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("report", "--by", "colour"), 2, "'colour' is not one of"),
        (("report", "--since", "yesterday"), 2, "since='yesterday': is not a date"),
        (("report", "--since", "2026-02-01", "--until", "2026-01-01"), 2, "comes after the end"),
        (("report", "--tz", "Mars"), 2, "tz='Mars': is not a known time zone"),
        (("report", "--database", "mysql://host/db"), 2, "is not a database that tuppence"),
        (("import", "claude-code", "no-such-path"), 2, "path='no-such-path': does not exist"),
        (("import", "claude-code"), 2, "Missing argument"),
        (("budget", "set", "team", "eng", "NaN"), 2, "DOLLARS='NaN': is not a finite amount"),
        (("budget", "set", "team", "eng", "-5"), 2, "No such option"),
        (("frobnicate",), 2, "No such command"),
        ((), 2, "Usage:"),
        (("report", "--database", "postgresql://nobody@127.0.0.1:1/x"), 1, "does not answer"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Usage errors exit with 2 and failures with 1; the reason is named, without a traceback."""
    done = tuppence(*arguments, DATABASE_URL=f"sqlite:///{tmp_path / 'x.db'}")
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_colours_can_be_forbidden(tmp_path: Path) -> None:
    """With NO_COLOR a terminal gets no escape codes, neither in errors nor in texts."""
    for arguments in (["report", "--tz", "Mars"], ["suggest", "--database", tmp_path / "x.db"]):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tuppence", *arguments],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(theirs)
        seen = b""
        while chunk := read_from(ours):
            seen += chunk
        process.wait(timeout=60)
        assert seen
        assert b"\x1b" not in seen


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    """A file of another kind is refused and left as it was."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at as one " * 50)
    before = path.read_bytes()
    done = tuppence("report", "--database", path)
    assert (done.returncode, str(path) in done.stderr) == (1, True)
    assert path.read_bytes() == before


def test_an_empty_ledger_is_no_error(tmp_path: Path) -> None:
    """A report on a new ledger says that nothing was booked, and exits with 0."""
    done = tuppence("report", "--database", tmp_path / "new.db")
    assert (done.returncode, done.stdout) == (0, "Nothing was booked in this period.\n")


def test_a_reader_may_stop_reading(imported: str) -> None:
    """`tuppence report | head -1` ends without a traceback."""
    command = f"{sys.executable} -m tuppence report --json --database '{imported}' | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_ctrl_c_leaves_a_sound_ledger(tmp_path: Path) -> None:
    """Interrupting an import exits with 130; what is booked adds up, and it can go on."""
    log = tmp_path / "large.jsonl"
    with log.open("w") as file:
        for number in range(150_000):
            file.write(LINE % (number % 9 + 1, number % 50, number, "claude-opus-4-5-20251101"))
    database = tmp_path / "ledger.db"
    command = [
        sys.executable,
        "-m",
        "tuppence",
        "import",
        "claude-code",
        log,
        "--database",
        database,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wal = Path(f"{database}-wal")
    deadline = time.monotonic() + 60
    while not (wal.exists() and wal.stat().st_size > 2_000_000):  # the first batch is being written
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (130, False)
    assert "interrupted" in errors
    assert tuppence("database", "verify", "--database", database).returncode == 0
    assert tuppence("import", "claude-code", log, "--database", database).returncode == 0
    document = json.loads(tuppence("report", "--json", "--database", database).stdout)
    assert document["total"]["requests"] == 150_000


def test_a_progress_bar_is_shown_to_people(log: Path, tmp_path: Path) -> None:
    """A terminal sees a progress bar; a pipe sees none."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tuppence", "import", "claude-code", log]
    process = subprocess.Popen(
        [*command, "--database", tmp_path / "x.db"],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    seen = b""
    while chunk := read_from(ours):
        seen += chunk
    process.wait(timeout=60)
    assert "━".encode() in seen


def read_from(handle: int) -> bytes:
    """Return what a terminal shows next; nothing once the other side has closed it."""
    try:
        return os.read(handle, 65_536)
    except OSError:
        return b""


def test_budgets_are_set_and_listed(imported: str) -> None:
    """A budget set is listed with limit, spending and state, as text and as JSON."""
    done = tuppence("budget", "set", "team", "eng", "100", "--database", imported, "--json")
    (budget,) = json.loads(done.stdout)
    assert (budget["limit_nanos"], budget["state"]) == (100 * 10**9, "normal")
    assert "Team eng" in tuppence("budget", "list", "--database", imported).stdout


def test_the_demo_runs_without_anything(tmp_path: Path) -> None:
    """The demo shows reports, budgets, savings, what to do next, and where its traffic is from."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "XDG_DATA_HOME": "", "DATABASE_URL": ""}
    done = tuppence("demo", **home)
    assert done.returncode == 0, done.stderr
    for words in (
        "Cost by team",
        "Cost by project",
        "Cost by user",
        "Cost by model",
        "calibrated to the published statistics of real traces",
        "caching saved",
        "exceeded",
        "What to do next",
        "unpriced",
        "10 got it, 54 did not, $0.00 was spent over the limit",
        "Proof:",
    ):
        assert words in done.stdout
    projected, _, measured = done.stdout.partition("Projected:")[2].partition("Measured:")
    assert "Model router" in projected
    assert "Over the limit" in projected
    assert "Prompt caching" in measured
    assert measured.rstrip().splitlines()[-1].startswith("Your own logs:")


def test_the_demo_runs_on_a_real_trace(log: Path) -> None:
    """With --trace the demo imports a log and reports on it."""
    done = tuppence("demo", "--trace", log)
    assert (done.returncode, "Booked: $0.0225" in done.stdout) == (0, True), done.stderr
    assert "Projected: what would have been" in done.stdout
    assert "Over the limit" not in done.stdout


def run_document(*arguments: str | Path) -> Any:
    """Run a command with --json and return what it says."""
    return json.loads(tuppence(*arguments, "--json").stdout)


def test_a_price_that_arrives_is_booked(imported: str) -> None:
    """Unpriced calls get their cost once a price is set; repricing again changes nothing."""
    at = ("--database", imported)
    tuppence(
        "prices",
        "set",
        "acme-large-1",
        "--input",
        "2",
        "--output",
        "10",
        "--from",
        "2026-01-01",
        *at,
    )
    for changed, difference in ((1, 3_000_000), (0, 0)):
        done = run_document("prices", "reprice", *at)
        assert (done["changed"], done["difference_nanos"]) == (changed, difference)
    total = run_document("report", *at)["total"]
    assert (total["cost_nanos"], total["unpriced_requests"]) == (25_500_000, 0)
    assert run_document("database", "verify", *at)["cost_nanos"] == 25_500_000
