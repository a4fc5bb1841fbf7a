"""The same requests before and after, and whose saving the difference is: pure arithmetic.

Why Shapley values, and what is compared with what: docs/explanation/savings.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from tuppence.insights.shapley import shapley_parts

Measure = Literal["routing", "caching", "batch", "limit"]


class Way(NamedTuple):
    """One way in which a request could have been sent."""

    cost_nanos: int
    is_strong: bool = False
    """Whether a model of the dear families answers."""
    prompt_tokens: int = 0
    read_tokens: int = 0
    """Of the prompt, from the cache."""


class Ways(NamedTuple):
    """A request in all the ways in which the measures could have had it sent."""

    month: int
    """In which it counts against a monthly limit; only equality matters."""
    by_measures: Mapping[frozenset[Measure], Way]
    """By the measures applied, without the limit; every set of those compared."""


class Bill(NamedTuple):
    """What requests cost together."""

    cost_nanos: int
    requests: int
    refused: int
    """Of the requests, because they would have passed the limit."""
    over_limit_nanos: int
    """By how much all months together have passed the limit; 0 without one."""
    strong_share: Fraction
    """Of the answered requests, those by a model of the dear families."""
    read_share: Fraction
    """Of their prompt tokens, those read from the cache."""


class Part(NamedTuple):
    """What a measure has saved."""

    measure: Measure
    saving_nanos: int
    share: Fraction
    """Of the whole saving; 0 where that is 0."""


class Savings(NamedTuple):
    """Requests before and after, and each measure's part of the difference."""

    before: Bill
    after: Bill
    parts: Sequence[Part]

    @property
    def saving_nanos(self) -> int:
        """The whole saving; negative where the measures cost more than they save."""
        return self.before.cost_nanos - self.after.cost_nanos

    @property
    def change(self) -> Fraction:
        """The change of the cost, as a share of what it was; 0 where it was 0."""
        return _share(-self.saving_nanos, self.before.cost_nanos)


def compare(
    requests: Sequence[Ways], measures: Sequence[Measure], limit_nanos: int | None = None
) -> Savings:
    """Return what the measures have saved together, and each one's part.

    `measures` are those that the requests' ways are told for; a `limit_nanos` per month is one
    measure more.
    """
    every: list[Measure] = [*measures] if limit_nanos is None else [*measures, "limit"]
    none: frozenset[Measure] = frozenset()
    before = bill(requests, none, limit_nanos)

    def saving(applied: frozenset[str]) -> int:
        chosen = frozenset(measure for measure in every if measure in applied)
        return before.cost_nanos - bill(requests, chosen, limit_nanos).cost_nanos

    after = bill(requests, frozenset(every), limit_nanos)
    whole = before.cost_nanos - after.cost_nanos
    parts = shapley_parts(every, saving)
    return Savings(
        before, after, [Part(one, parts[one], _share(parts[one], whole)) for one in every]
    )


def bill(
    requests: Iterable[Ways], applied: frozenset[Measure], limit_nanos: int | None = None
) -> Bill:
    """Return what requests cost together with these measures, taken in their order.

    With the measure "limit" a request that would pass `limit_nanos` in its month is refused; the
    next one that fits is answered.
    """
    refuses = "limit" in applied and limit_nanos is not None
    key = applied - {"limit"}
    spent: defaultdict[int, int] = defaultdict(int)
    count = refused = strong = prompt_tokens = read_tokens = 0
    for request in requests:
        way = request.by_measures[key]
        count += 1
        landing = spent[request.month] + way.cost_nanos
        if refuses and limit_nanos is not None and landing > limit_nanos:
            refused += 1
            continue
        spent[request.month] = landing
        strong += way.is_strong
        prompt_tokens += way.prompt_tokens
        read_tokens += way.read_tokens
    over = 0
    if limit_nanos is not None:
        over = sum(max(0, month - limit_nanos) for month in spent.values())
    return Bill(
        cost_nanos=sum(spent.values()),
        requests=count,
        refused=refused,
        over_limit_nanos=over,
        strong_share=_share(strong, count - refused),
        read_share=_share(read_tokens, prompt_tokens),
    )


def _share(part: int, whole: int) -> Fraction:
    return Fraction(part, whole) if whole else Fraction(0)
