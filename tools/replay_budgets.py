"""Replay real traffic against budgets that run out: what is overspent, what is refused in vain.

    python tools/replay_budgets.py ../shared/data [--database URL] [--scenario NAME ...]

The throttler is the real one, on a database of its own; only time is simulated. Calls arrive when
the trace says, are in flight for as long as their output takes, wait up to a deadline, and cost
what they really cost. Terms and figures are explained in docs/explanation/utilisation.md.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import io
import itertools
import json
import lzma
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from tuppence.budget.calls import CallWish
from tuppence.budget.hold_rows import waiting_states
from tuppence.budget.requests import Answer, End, Extend, Granted, Request, Waiting
from tuppence.budget.scopes import scopes_of
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.admission import Mode
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import BudgetExceeded
from tuppence.prices.catalogue import load_price_book
from tuppence.providers.anthropic import read_usage

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
MAX_TOKENS = 128_000
TOKENS_PER_SECOND = 60.0
FIRST_TOKEN_SECONDS = 2.0
SIGN_OF_LIFE_SECONDS = 4.0
"""Waiting calls keep their place for 5 seconds without a sign of life."""
CALLS_PER_REFRESH = 50
"""How often expectations are read again: so that a replay has the same result each time."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A call of a trace."""

    at_seconds: float
    model: str
    usage: Usage

    @property
    def seconds(self) -> float:
        """How long the call is in flight."""
        return FIRST_TOKEN_SECONDS + self.usage.output_tokens / TOKENS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a budget is kept, and how calls ask."""

    name: str
    mode: Mode = "strict"
    wait_seconds: float = 0.0
    minimum_max_tokens: int | None = None
    overdraft_share: float = 0.01
    max_tokens: int = MAX_TOKENS


SCENARIOS = (
    Scenario("strict"),
    Scenario("strict, waiting", wait_seconds=120),
    Scenario("strict, waiting, at least 1,000 tokens", wait_seconds=120, minimum_max_tokens=1_000),
    Scenario("expected, waiting", "expected", wait_seconds=120),
)


@dataclass(slots=True)
class Outcome:
    """What became of the calls of a trace."""

    limit_nanos: int
    calls: int = 0
    granted: int = 0
    refused: int = 0
    would_fit: int = 0
    """Refused although spent + really in flight + this call was within the limit."""
    would_fit_together: int = 0
    """The same, where each such call then counts as spent for the next: all of these could be."""
    cut_short: int = 0
    """Granted with a `max_tokens` below what the answer would have had."""
    waited_seconds: list[float] = field(default_factory=list)
    spent_nanos: int = 0
    running_nanos: int = 0
    """What the calls in flight will really cost."""
    forgone_nanos: int = 0
    """What the calls that were refused in vain, all together, would have cost."""

    @property
    def overdraft(self) -> float:
        """What was spent beyond the limit, as a share of it."""
        return max(self.spent_nanos - self.limit_nanos, 0) / self.limit_nanos

    @property
    def of_refusals(self) -> float:
        """Refused in vain, each by itself, as a share of what was refused."""
        return self.would_fit / self.refused if self.refused else 0.0

    @property
    def together_of_refusals(self) -> float:
        """Refused in vain, all together, as a share of what was refused."""
        return self.would_fit_together / self.refused if self.refused else 0.0

    @property
    def together_of_calls(self) -> float:
        """Refused in vain, all together, as a share of all calls."""
        return self.would_fit_together / self.calls if self.calls else 0.0

    @property
    def used(self) -> float:
        """What was spent, as a share of the limit."""
        return self.spent_nanos / self.limit_nanos

    @property
    def mean_wait(self) -> float:
        """Seconds that a granted call has waited."""
        return sum(self.waited_seconds) / len(self.waited_seconds) if self.waited_seconds else 0.0


@dataclass(slots=True)
class _Asked:
    """A call that asked, with what it will cost."""

    traced: Traced
    wish: CallWish
    arrived_at: float
    hold_id: int = 0
    cost_nanos: int = 0


class Replay:
    """One trace against one budget, in simulated time."""

    def __init__(
        self, throttler: BudgetThrottler, clock: Clock, scenario: Scenario, limit_nanos: int
    ) -> None:
        self._throttler = throttler
        self._clock = clock
        self._scenario = scenario
        self._book = load_price_book()
        self._waiting: dict[int, _Asked] = {}
        self._events: list[tuple[float, int, str, _Asked | None]] = []
        self._numbers = itertools.count()
        self._ended = 0
        self._scopes = scopes_of({}, self._throttler.name)
        self.outcome = Outcome(limit_nanos)

    def learn(self, history: Sequence[Traced]) -> None:
        """Make calls that no budget covers, one after the other."""
        for call in history:
            wish = self._wish(call)
            hold = self._throttler.hold_amounts(wish.amounts, self._scopes)
            hold.settle(Decimal(cost_of(self._book, call)).scaleb(-9))

    def spend(self, nanos: int) -> None:
        """Spend of the budget before the first call."""
        self._throttler.record_usage(Decimal(nanos).scaleb(-9))
        self.outcome.spent_nanos += nanos

    def run(self, calls: Iterable[Traced]) -> Outcome:
        """Let all calls ask at their time and return what became of them."""
        for call in calls:
            wish = self._wish(call)
            self._push(call.at_seconds, "arrives", _Asked(call, wish, call.at_seconds))
        self._push(0.0, "sign of life", None)
        while self._events:
            at, _, kind, asked = heapq.heappop(self._events)
            self._clock.seconds = at
            if asked is None:
                self._show_life(at)
            elif kind == "arrives":
                self._arrive(asked)
            elif kind == "ends":
                self._end(asked)
            elif asked.hold_id in self._waiting:
                self._ask(asked, End(asked.hold_id, "withdrawn"))
            if kind != "arrives":
                self._look_at_waiting()
        return self.outcome

    def _wish(self, call: Traced) -> CallWish:
        scenario = self._scenario
        return self._throttler.calls.wish(
            call.model, call.usage.prompt_tokens, scenario.max_tokens, scenario.minimum_max_tokens
        )

    def _push(self, at: float, kind: str, asked: _Asked | None) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, asked))

    def _arrive(self, asked: _Asked) -> None:
        self.outcome.calls += 1
        request = self._throttler._reservation(  # noqa: SLF001 - hold() waits in real time
            asked.wish.amounts, self._scopes, {}
        )
        request.may_wait = self._scenario.wait_seconds > 0
        asked.hold_id = request.hold_id
        self._ask(asked, request)

    def _ask(self, asked: _Asked, request: Request) -> None:
        try:
            answer = self._throttler.engine.perform(request)
        except BudgetExceeded as refusal:
            answer = refusal
        self._take(asked, answer)

    def _take(self, asked: _Asked, answer: Answer) -> None:
        if isinstance(answer, Granted):
            self._waiting.pop(asked.hold_id, None)
            self._start(asked, answer)
        elif isinstance(answer, BudgetExceeded):
            self._waiting.pop(asked.hold_id, None)
            self._refuse(asked)
        elif not isinstance(answer, Waiting):
            raise TypeError(answer)
        elif asked.hold_id not in self._waiting:
            self._waiting[asked.hold_id] = asked
            self._push(self._clock.seconds + self._scenario.wait_seconds, "gives up", asked)

    def _start(self, asked: _Asked, granted: Granted) -> None:
        allowed = asked.wish.max_tokens_for(granted.bound_nanos)
        usage = asked.traced.usage
        self.outcome.granted += 1
        self.outcome.cut_short += usage.output_tokens > allowed
        asked.cost_nanos = self._cost(asked.traced, min(usage.output_tokens, allowed))
        self.outcome.running_nanos += asked.cost_nanos
        self.outcome.waited_seconds.append(self._clock.seconds - asked.arrived_at)
        self._push(self._clock.seconds + asked.traced.seconds, "ends", asked)

    def _end(self, asked: _Asked) -> None:
        self._throttler.engine.perform(
            End(asked.hold_id, "settled", asked.cost_nanos, within_lease=True)
        )
        self.outcome.running_nanos -= asked.cost_nanos
        self.outcome.spent_nanos += asked.cost_nanos
        self._ended += 1
        if self._scenario.mode == "expected" and self._ended % CALLS_PER_REFRESH == 0:
            self._throttler.expectations.refresh()

    def _refuse(self, asked: _Asked) -> None:
        outcome = self.outcome
        outcome.refused += 1
        cost = self._cost(asked.traced, asked.traced.usage.output_tokens)
        real = outcome.spent_nanos + outcome.running_nanos
        outcome.would_fit += real + cost <= outcome.limit_nanos
        if real + outcome.forgone_nanos + cost <= outcome.limit_nanos:
            outcome.would_fit_together += 1
            outcome.forgone_nanos += cost

    def _cost(self, call: Traced, output_tokens: int) -> int:
        return cost_of(self._book, call, output_tokens)

    def _look_at_waiting(self) -> None:
        """See which waiting calls got their turn, or cannot fit any more."""
        if self._waiting:
            self._extend(self._throttler.database.read(waiting_states, list(self._waiting)))

    def _show_life(self, at: float) -> None:
        self._extend(list(self._waiting))
        if self._events:
            self._push(at + SIGN_OF_LIFE_SECONDS, "sign of life", None)

    def _extend(self, hold_ids: Sequence[int]) -> None:
        """Let waiting calls ask for their answers, all in one commit, as those of threads are."""
        if hold_ids:
            requests = [Extend(hold_id) for hold_id in hold_ids]
            answers = self._throttler.engine._commit(requests)  # noqa: SLF001
            for hold_id, answer in zip(hold_ids, answers, strict=True):
                self._take(self._waiting[hold_id], answer)


class Clock:
    """A clock that shows simulated time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime:
        """Return the moment."""
        return NOON + timedelta(seconds=self.seconds)


def replay(
    calls: Sequence[Traced],
    scenario: Scenario,
    limit_nanos: int,
    database_url: str,
    *,
    history: Sequence[Traced] = (),
    spent_nanos: int = 0,
) -> Outcome:
    """Run one scenario with one monthly budget on an empty database.

    `history` are calls before the budget was set, `spent_nanos` is what was spent of it before: so
    the end of a budget can be looked at without all that comes before it.
    """
    clock = Clock()
    throttler = BudgetThrottler(database_url=database_url, redis_url="", now=clock)
    try:
        throttler.expectations.close()  # no reading in between: the same result each time
        run = Replay(throttler, clock, scenario, limit_nanos)
        run.learn(history)
        set_budget_of(throttler, clock, scenario, limit_nanos)
        throttler.expectations.refresh()
        run.spend(spent_nanos)
        return run.run(calls)
    finally:
        throttler.close()


def set_budget_of(
    throttler: BudgetThrottler, clock: Clock, scenario: Scenario, limit_nanos: int
) -> None:
    """Set the budget that is replayed against."""
    budget = NewBudget(
        "organisation",
        "default",
        limit_nanos,
        mode=scenario.mode,
        overdraft_share=scenario.overdraft_share,
    )
    Ledger(throttler.database, now=clock).create_budget(budget, by="replay")


def cost_of(book: PriceBook, call: Traced, output_tokens: int | None = None) -> int:
    """Return what a call costs, with so much output."""
    usage = call.usage
    if output_tokens is not None:
        usage = Usage(*usage.token_counts[:5], output_tokens, 0, usage.other_units)
    cost = book.cost(usage, call.model, int(NOON.timestamp()))
    if cost is None:
        raise AssertionError(call.model)
    return cost.total_nanos


def azure_code(data: Path, model: str = "claude-sonnet-5-5") -> list[Traced]:
    """Return the requests of an hour of a code assistant, as calls of one model."""
    with lzma.open(data / "traces" / "azure-2023-code.csv.xz", "rt") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    return sorted(
        (
            Traced(
                (at - times[0]).total_seconds(),
                model,
                Usage(int(row["ContextTokens"]), output_tokens=int(row["GeneratedTokens"])),
            )
            for at, row in zip(times, rows, strict=True)
        ),
        key=lambda call: call.at_seconds,
    )


def claude_code(
    data: Path, *, start_every: float = 20.0, longest_pause: float = 60.0
) -> list[Traced]:
    """Return sessions of Claude Code: one call per message and request, the row of most output.

    The sessions start shortly after each other and people think no longer than a minute, so that
    many run at once, where the trace spreads them over six weeks.
    """
    sessions: dict[str, list[tuple[datetime, Traced]]] = defaultdict(list)
    for row in _answers(data / "traces" / "claude-code-usage.jsonl.xz"):
        message = row["message"]
        at = datetime.fromisoformat(row["timestamp"])
        for part in read_usage(message["usage"], message["model"]):
            sessions[row["sessionId"]].append((at, Traced(0.0, part.model, part.usage)))
    found = []
    for number, session in enumerate(sessions.values()):
        session.sort(key=lambda timed: timed[0])
        clock, before = number * start_every, session[0][0]
        for at, call in session:
            clock += min((at - before).total_seconds(), longest_pause)
            before = at
            found.append(Traced(clock, call.model, call.usage))
    return sorted(found, key=lambda call: call.at_seconds)


def _answers(path: Path) -> Iterator[dict[str, dict]]:  # type: ignore[type-arg]
    best: dict[tuple[str, str], dict[str, dict]] = {}  # type: ignore[type-arg]
    with lzma.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            message = row["message"]
            if not message.get("usage") or message["model"] == "<synthetic>":
                continue
            key = (message.get("id"), row.get("requestId"))
            known = best.get(key)
            if known is None or _output(row) > _output(known):
                best[key] = row
    yield from best.values()


def _output(row: dict[str, dict]) -> int:  # type: ignore[type-arg]
    return int(row["message"]["usage"]["output_tokens"])


COLUMNS = (
    "| trace | budget | scenario | granted | refused | used | overdraft | in vain, of refusals: "
    "each | together | together, of calls | cut short | mean wait |\n|" + "---|" * 12
)


def line(trace: str, budget: str, scenario: Scenario, outcome: Outcome) -> str:
    """Return an outcome as a row of the table."""
    cells = (
        trace,
        budget,
        scenario.name,
        f"{outcome.granted:,}",
        f"{outcome.refused:,}",
        f"{outcome.used:.2%}",
        f"{outcome.overdraft:.3%}",
        f"{outcome.of_refusals:.2%}",
        f"{outcome.together_of_refusals:.2%}",
        f"{outcome.together_of_calls:.2%}",
        f"{outcome.cut_short}",
        f"{outcome.mean_wait:.2f} s",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--database", help="the URL of an empty database; SQLite files by default")
    parser.add_argument("--trace", choices=("azure", "claude"), action="append")
    parser.add_argument("--share", type=float, action="append")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS])
    given = parser.parse_args()
    book = load_price_book()
    traces = {"azure": azure_code, "claude": claude_code}
    print(COLUMNS)
    for name in given.trace or traces:
        calls = traces[name](given.data)
        total = sum(cost_of(book, call) for call in calls)
        for share in given.share or (0.25, 0.5, 0.8):
            for scenario in SCENARIOS:
                if given.scenario and scenario.name not in given.scenario:
                    continue
                with tempfile.TemporaryDirectory() as directory:
                    url = given.database or f"sqlite:///{directory}/ledger.db"
                    outcome = replay(calls, scenario, int(total * share), url)
                print(line(name, f"{share:.0%}", scenario, outcome), flush=True)


if __name__ == "__main__":
    main()
