"""Shadow calls: what the strongest model would have answered, for a sample of routed calls.

Each comparison is a line of a JSON file. From it come regret and saving with their intervals, and
the decision to roll back: when even the upper end of the interval of the kept quality is below the
floor, everything goes to the strongest model.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.answers import final_answer, same_answer
from tuppence.model_router.metrics import FloatArray, IntArray, Interval, intervals

FEWEST_COMPARISONS = 50
MOST_COMPARISONS = 5_000
"""The newest so many count: traffic and models change."""
ROUNDS = 500
DEVIATIONS = 1.96
"""Standard deviations from a figure to either end of its 95 % interval."""
LINE_START = b'{"at": "'
LONGEST_LINE = 4_096
"""Bytes; a comparison has some 250."""
DEFAULT_JUDGE = "claude-sonnet-5-5"
JUDGE_PROMPT = """Two assistants answered the same request. Judge correctness and helpfulness, \
not length or style.

<request>
{request}
</request>

<answer_a>
{first}
</answer_a>

<answer_b>
{second}
</answer_b>

Reply with one word: A if answer A is clearly better, B if answer B is clearly better, SAME if \
they are about as good."""

Request = Mapping[str, Any]
Asking = Generator[dict[str, Any], str, "Qualities"]
"""Yields Messages API requests (with their model), is sent the text of the answers."""


class Qualities(NamedTuple):
    """How good two answers are, 0..1 each."""

    routed: float
    strongest: float


@runtime_checkable
class Judge(Protocol):
    """Compares two answers to one request."""

    def compare(self, request: Request, prompt: str, routed: str, strongest: str) -> Asking:
        """Yield the calls that the judgement takes, and return the qualities."""


@dataclass(frozen=True, slots=True)
class VerifierJudge:
    """A function of yours rates each answer from 0 to 1: it gets the request and the text."""

    rates: Callable[[Request, str], float]

    def compare(self, request: Request, prompt: str, routed: str, strongest: str) -> Asking:
        """Rate both; no call is made."""
        del prompt
        yield from ()
        return Qualities(
            _share(self.rates(request, routed)), _share(self.rates(request, strongest))
        )


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """An answer is right when it comes to what is expected; see `answers.same_answer`."""

    expected: str

    def compare(self, request: Request, prompt: str, routed: str, strongest: str) -> Asking:
        """Compare both with what is expected; no call is made."""
        del request, prompt
        yield from ()
        right = [same_answer(final_answer(text), self.expected) for text in (routed, strongest)]
        return Qualities(float(right[0]), float(right[1]))


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """A model says which answer is better.

    It is asked twice, in both orders, because the first place wins too often; only a verdict that
    holds in both orders counts.
    """

    model: str = DEFAULT_JUDGE
    max_tokens: int = 16

    def compare(self, request: Request, prompt: str, routed: str, strongest: str) -> Asking:
        """Ask twice; an answer beside itself needs no judge."""
        del request
        if routed == strongest:
            return Qualities(1.0, 1.0)
        one = yield self._request(prompt, routed, strongest)
        other = yield self._request(prompt, strongest, routed)
        verdicts = (_verdict(one), _verdict(other))
        if verdicts == ("A", "B"):
            return Qualities(1.0, 0.0)
        if verdicts == ("B", "A"):
            return Qualities(0.0, 1.0)
        return Qualities(1.0, 1.0)

    def _request(self, prompt: str, first: str, second: str) -> dict[str, Any]:
        text = JUDGE_PROMPT.format(request=prompt, first=first, second=second)
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": text}],
        }


class Comparison(NamedTuple):
    """A routed answer beside the strongest model's."""

    at: str
    """ISO 8601."""
    complexity: str
    model: str
    strongest: str
    quality: float
    strongest_quality: float
    cost_nanos: int
    strongest_cost_nanos: int


class ComparisonLog:
    """A file of comparisons, to which several processes may add; safe to use from threads.

    Only what was added since the last time is read. A last line that a crash cut off does not
    count, and the next one that is added takes its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: deque[Comparison] = deque(maxlen=MOST_COMPARISONS)
        self._bytes_read = 0
        self._lock = threading.Lock()

    def newest(self) -> list[Comparison]:
        """Return the newest comparisons, none without a file; raise InvalidTrace for no log."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                return []
            except (OSError, ValueError, TypeError) as error:
                raise _no_log(self._path, str(error)) from error
            return list(self._newest)

    def add(self, comparison: Comparison) -> None:
        """Add a comparison; raise InvalidInput where it cannot be written."""
        line = json.dumps(comparison._asdict()).encode() + b"\n"
        try:
            with self._lock, self._path.open("a+b") as file:
                _end_last_line(file)
                file.write(line)
        except OSError as error:
            raise InvalidInput(
                f"cannot be written: {error.strerror}",
                field="log",
                value=str(self._path),
                remedy="name a file in a directory that you may write to",
            ) from error

    def _read(self, file: BinaryIO) -> None:
        if file.seek(0, os.SEEK_END) < self._bytes_read:  # another file of the same name
            self._newest.clear()
            self._bytes_read = 0
        file.seek(self._bytes_read)
        *lines, last = file.read().split(b"\n")
        comparisons = [_comparison(line) for line in lines if line.strip()]
        self._newest.extend(comparisons)
        self._bytes_read += sum(len(line) + 1 for line in lines)
        if last and not _is_torn(last):
            self._newest.append(_comparison(last))
            self._bytes_read += len(last)


@dataclass(frozen=True, slots=True)
class Shadow:
    """How a router watches itself.

    `log` is the file of comparisons, `share` of routed calls is compared by the `judge`, and below
    `floor` of the strongest model's quality the router rolls back.
    """

    log: Path
    share: float = 0.05
    judge: Judge = field(default_factory=ModelJudge)
    floor: float = 0.98
    fewest: int = FEWEST_COMPARISONS
    drawing: random.Random = field(default_factory=random.Random)
    comparisons: ComparisonLog = field(init=False, repr=False, compare=False)
    """What the log holds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "comparisons", ComparisonLog(self.log))
        for name in ("share", "floor"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InvalidInput(
                    "is no share",
                    field=name,
                    value=value,
                    remedy="give a number above 0 and up to 1",
                )

    def is_drawn(self) -> bool:
        """Tell whether this call is in the sample."""
        return self.drawing.random() < self.share

    def is_below_floor(self) -> bool:
        """Tell whether the comparisons so far, of all processes, are a reason to roll back.

        Raises InvalidTrace where the log is none.
        """
        return is_below_floor(self.comparisons.newest(), self.floor, fewest=self.fewest)

    def add(self, comparison: Comparison) -> None:
        """Write a comparison to the log; raise InvalidInput where that cannot be written."""
        self.comparisons.add(comparison)


class ShadowReport(NamedTuple):
    """What the comparisons say."""

    comparisons: int
    regret: Interval
    """By how much the strongest model's answers were better on average, 0..1."""
    kept_quality: Interval
    """Quality as a share of the strongest model's."""
    saving_nanos: Interval
    """Per routed call."""
    saving_share: Interval
    """Of what the strongest model would have cost."""
    is_below_floor: bool


def read_comparisons(path: Path) -> list[Comparison]:
    """Return the newest comparisons of a log; raise InvalidTrace for what is no log."""
    if not path.exists():
        raise _no_log(path, "there is no such file")
    return ComparisonLog(path).newest()


def report(comparisons: Sequence[Comparison], floor: float, *, fewest: int) -> ShadowReport:
    """Return regret and saving with their intervals; NaN where there is nothing to tell."""
    table = np.array(
        [
            (one.quality, one.strongest_quality, one.cost_nanos, one.strongest_cost_nanos)
            for one in comparisons
        ],
        dtype=np.float64,
    ).reshape(-1, 4)

    def figures(rows: IntArray) -> FloatArray:
        routed, strongest, cost, strongest_cost = table[rows].mean(axis=0)
        return np.array(
            [
                strongest - routed,
                routed / strongest if strongest else np.nan,
                strongest_cost - cost,
                1 - cost / strongest_cost if strongest_cost else np.nan,
            ]
        )

    if not len(table):
        nothing = Interval(np.nan, np.nan, np.nan)
        return ShadowReport(0, nothing, nothing, nothing, nothing, is_below_floor=False)
    values = figures(np.arange(len(table)))
    low, high = intervals(figures, len(table), rounds=ROUNDS)
    told = [Interval(*map(float, one)) for one in zip(values, low, high, strict=True)]
    below = is_below_floor(comparisons, floor, fewest=fewest)
    return ShadowReport(len(table), told[0], told[1], told[2], told[3], is_below_floor=below)


def is_below_floor(
    comparisons: Sequence[Comparison], floor: float, *, fewest: int = FEWEST_COMPARISONS
) -> bool:
    """Tell whether the kept quality is below the floor, and not by chance.

    By the upper end of its 95 % interval in the normal approximation for ratios: routers ask this
    after every comparison, for which resampling takes too long.
    """
    if not comparisons or len(comparisons) < fewest:
        return False
    routed, strongest = np.array([(one.quality, one.strongest_quality) for one in comparisons]).T
    if not strongest.any():
        return False
    kept = routed.mean() / strongest.mean()
    spread = np.sqrt(np.mean((routed - kept * strongest) ** 2) / len(comparisons))
    return bool(kept + DEVIATIONS * spread / strongest.mean() < floor)


def _comparison(line: bytes) -> Comparison:
    return Comparison(**json.loads(line))


def _is_torn(line: bytes) -> bool:
    """Tell whether a line is the beginning of a comparison; one that is something else is not."""
    try:
        json.loads(line)
    except ValueError:
        return LINE_START.startswith(line[: len(LINE_START)])
    return False


def _end_last_line(file: BinaryIO) -> None:
    """Cut off what a crash left of a last line, so that the next one stands alone."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_LINE))
    last = file.read().rpartition(b"\n")[2]
    if last and _is_torn(last):
        file.truncate(size - len(last))
    elif last:
        file.write(b"\n")


def _no_log(path: Path, problem: str) -> InvalidTrace:
    return InvalidTrace(
        f"holds no comparisons ({problem})",
        field="log",
        value=str(path),
        remedy="name a file that `tuppence router shadow` or a Shadow has written",
    )


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise InvalidInput(
            "is no rating", field="judge", value=value, remedy="return a number from 0 to 1"
        )
    return float(value)


def _verdict(text: str) -> str:
    word = text.strip().upper().strip(".*\"'")
    return word if word in {"A", "B"} else "SAME"
