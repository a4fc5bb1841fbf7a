"""The command line from the shell: start, import, report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from tests.performance.conftest import median_seconds
from tuppence.cost_tracking.importers.claude_code import import_claude_code
from tuppence.cost_tracking.ledger import Ledger

TUPPENCE = Path(sys.executable).with_name("tuppence")


def run(*command: str | Path) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, capture_output=True)


def test_starting(figure: Callable[..., None]) -> None:
    """Importing tuppence takes at most 150 ms, `tuppence --help` at most 300 ms."""
    nothing = median_seconds(lambda: run(sys.executable, "-c", "pass"), 9)
    package = median_seconds(lambda: run(sys.executable, "-c", "import tuppence"), 9)
    help_text = median_seconds(lambda: run(TUPPENCE, "--help"), 9)
    figure("import tuppence", f"{(package - nothing) * 1e3:.0f} ms", "target 150 ms")
    figure("tuppence --help", f"{help_text * 1e3:.0f} ms", "target 300 ms")


def test_importing_and_reporting(
    tmp_path: Path, shared_data: Path, figure: Callable[..., None]
) -> None:
    """Importing 24,937 lines goes at 40,000 lines/s or more; a report takes at most 0.4 s."""
    trace = shared_data / "traces" / "claude-code-usage.jsonl.xz"
    numbers = iter(range(100))

    def import_fresh() -> None:
        path = tmp_path / f"{next(numbers)}.db"
        run(TUPPENCE, "import", "claude-code", trace, "--database", path)

    whole = median_seconds(import_fresh, 5)
    figure("tuppence import, from the shell", f"{24_937 / whole:,.0f} lines/s", f"{whole:.2f} s")
    inside = []
    for _ in range(5):
        ledger = Ledger.open(str(tmp_path / f"{next(numbers)}.db"))
        start = perf_counter()
        import_claude_code(ledger, [trace])
        inside.append(24_937 / (perf_counter() - start))
        ledger.close()
    figure("  the import itself", f"{sorted(inside)[2]:,.0f} lines/s", "target 40,000")
    database = tmp_path / "0.db"
    for by in ("project", "day"):
        seconds = median_seconds(
            lambda by=by: run(TUPPENCE, "report", "--by", by, "--database", database), 9
        )
        figure(f"tuppence report --by {by}", f"{seconds * 1e3:.0f} ms", "target 400 ms")
