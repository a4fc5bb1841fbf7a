"""A fork goes on by itself: it has its parent's objects, but no connection or number of them."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os, sys
from tuppence.budget.throttler import BudgetThrottler

throttler = BudgetThrottler(10, database_url=sys.argv[1], redis_url="")
throttler.hold(1).settle(1)
into, out = os.pipe()[::-1]
if os.fork() == 0:
    held = throttler.hold(1)
    held.settle(1)
    os.write(into, held.id.encode())
    os._exit(0)
os.wait()
child = os.read(out, 100).decode()
held = throttler.hold(1)
held.settle(1)
rows = throttler.database.read(
    lambda tx: tx.rows("SELECT used_normal_nanos, settled_count FROM budget_counters")
)
print(json.dumps({"ids": [child, held.id], "rows": rows}))
throttler.close()
"""


def test_parent_and_child_hold_money_side_by_side(database_url: str) -> None:
    """The numbers of their holds differ, and all that both spent is counted."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, database_url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    child, parent = told["ids"]
    # The number of the process is in the upper half of a hold's number.
    assert int(child[1:], 16) >> 32 != int(parent[1:], 16) >> 32
    assert told["rows"] == [[3_000_000_000, 3]]
