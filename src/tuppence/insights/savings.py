"""The same requests before and after, and whose saving the difference is: pure arithmetic.

Why Shapley values, and what is compared with what: docs/explanation/savings.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from tuppence.insights.shapley import shapley_parts

Measure = Literal["routing", "caching", "batch"]


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
    """By the measures applied; every set of those compared."""


class Bill(NamedTuple):
    """What requests cost together."""

    cost_nanos: int
    requests: int
    """Those that were answered."""
    over_limit_nanos: int
    """By how much all months together have passed the limit; 0 without one."""
    strong_share: Fraction | None
    """Of the requests, those by a model of the dear families; None where there are none."""
    read_share: Fraction | None
    """Of their prompt tokens, those read from the cache; None where there are none."""


class Part(NamedTuple):
    """What a measure has saved."""

    measure: Measure
    saving_nanos: int
    share: Fraction
    """Of all that is spent less, refused work included; 0 where that is 0."""


class Savings(NamedTuple):
    """Requests before and after, and each measure's part of the difference."""

    before: Bill
    after: Bill
    """With all measures, and then the limit."""
    parts: Sequence[Part]
    """Of the measures, on the requests that were answered."""
    limit_nanos: int | None = None
    """Per month; None without one."""

    @property
    def less_nanos(self) -> int:
        """How much less is spent: what was saved, and what was refused."""
        return self.before.cost_nanos - self.after.cost_nanos

    @property
    def saving_nanos(self) -> int:
        """What the measures save on what is answered; negative where they cost more."""
        return sum(part.saving_nanos for part in self.parts)

    @property
    def refused(self) -> int:
        """How many requests the limit refuses, after all measures."""
        return self.before.requests - self.after.requests

    @property
    def refused_nanos(self) -> int:
        """The limit's part: what the refused requests cost before. Work not done is no saving."""
        return self.less_nanos - self.saving_nanos

    @property
    def refused_share(self) -> Fraction:
        """The limit's part of all that is spent less; 0 where that is 0."""
        return _share(self.refused_nanos, self.less_nanos)

    @property
    def change(self) -> Fraction:
        """The change of the cost, as a share of what it was; 0 where it was 0."""
        return _share(-self.less_nanos, self.before.cost_nanos)


def compare(
    requests: Sequence[Ways], measures: Sequence[Measure], limit_nanos: int | None = None
) -> Savings:
    """Return what the measures have saved together, each one's part, and what is refused.

    `measures` are those that the requests' ways are told for. A limit comes last: what passes
    `limit_nanos` in its month although all measures are in use is refused. Only what is still
    answered saves anything: no measure is credited with work that was not done.
    """
    every = frozenset(measures)
    kept = requests if limit_nanos is None else answered(requests, every, limit_nanos)
    plain_nanos = bill(kept, frozenset()).cost_nanos

    def saving(applied: frozenset[str]) -> int:
        chosen = frozenset(measure for measure in measures if measure in applied)
        return plain_nanos - bill(kept, chosen).cost_nanos

    before = bill(requests, frozenset(), limit_nanos)
    after = bill(kept, every, limit_nanos)
    less_nanos = before.cost_nanos - after.cost_nanos
    parts = shapley_parts(measures, saving)
    shares = [Part(one, parts[one], _share(parts[one], less_nanos)) for one in measures]
    return Savings(before, after, shares, limit_nanos)


def answered(
    requests: Iterable[Ways], applied: frozenset[Measure], limit_nanos: int
) -> Sequence[Ways]:
    """Return the requests that a limit lets pass with these measures, taken in their order.

    One that would pass it in its month is refused; the next one that fits is answered.
    """
    spent: defaultdict[int, int] = defaultdict(int)
    kept = []
    for request in requests:
        landing = spent[request.month] + request.by_measures[applied].cost_nanos
        if landing <= limit_nanos:
            spent[request.month] = landing
            kept.append(request)
    return kept


def bill(
    requests: Iterable[Ways], applied: frozenset[Measure], limit_nanos: int | None = None
) -> Bill:
    """Return what requests cost together with these measures, and by how much over a limit."""
    spent: defaultdict[int, int] = defaultdict(int)
    count = strong = prompt_tokens = read_tokens = 0
    for request in requests:
        way = request.by_measures[applied]
        count += 1
        spent[request.month] += way.cost_nanos
        strong += way.is_strong
        prompt_tokens += way.prompt_tokens
        read_tokens += way.read_tokens
    over = 0
    if limit_nanos is not None:
        over = sum(max(0, month - limit_nanos) for month in spent.values())
    return Bill(
        cost_nanos=sum(spent.values()),
        requests=count,
        over_limit_nanos=over,
        strong_share=Fraction(strong, count) if count else None,
        read_share=Fraction(read_tokens, prompt_tokens) if prompt_tokens else None,
    )


def _share(part: int, whole: int) -> Fraction:
    return Fraction(part, whole) if whole else Fraction(0)
