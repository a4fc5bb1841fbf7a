"""How soon prompts are used again: rates learned from the requests so far, and from nothing else.

A cached prefix pays only if another request begins with it before it expires. How likely that is
depends on the *situation* of its tokens: new or seen before, how often, how long ago, the turn of a
conversation or a first message. For each situation we count, by age, how many tokens were used
again at that age and for how long tokens waited there (a piecewise constant hazard, as survival
analysis has it: https://en.wikipedia.org/wiki/Survival_analysis). Tokens that are still waiting
count for as long as they have waited, so nothing has to be known of the future, and the first
minutes of a stream teach as much as they can.

Tokens used and not requests are counted, because tokens are what is paid for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

AGES_SECONDS = (0.0, 15.0, 60.0, 150.0, 300.0, 900.0, 3600.0)
"""Between two of these the hazard is taken as constant. Both TTLs of Anthropic are among them."""
_WIDTHS = tuple(end - start for start, end in pairwise(AGES_SECONDS))
_LAST = len(_WIDTHS)
_EARLY = AGES_SECONDS.index(300.0)
_FIRST_5_MINUTES = range(_EARLY)
_REST_OF_THE_HOUR = range(_EARLY, _LAST)


class Prior(NamedTuple):
    """What is believed of a situation before anything was seen of it."""

    within_300s: float
    """Probability of being used again within 5 minutes."""
    within_3600s: float
    """Probability of being used again within the hour, if not within 5 minutes."""
    strength_tokens: float
    """How many tokens have to be seen for experience to count as much as this belief."""


class ReuseRate:
    """The hazard of one situation's tokens to be used again, by age."""

    __slots__ = ("_counted_at", "_hits", "_prior_hazards", "_strength", "_waited", "_waiting")

    def __init__(self, prior: Prior) -> None:
        self._waiting = [0.0] * _LAST  # tokens of each age now
        self._counted_at = [0.0] * _LAST
        self._waited = [0.0] * _LAST  # token-seconds
        self._hits = [0.0] * _LAST
        soon = -math.log(1 - prior.within_300s) / len(_FIRST_5_MINUTES)
        later = -math.log(1 - prior.within_3600s) / len(_REST_OF_THE_HOUR)
        self._prior_hazards = [soon] * len(_FIRST_5_MINUTES) + [later] * len(_REST_OF_THE_HOUR)
        self._strength = prior.strength_tokens

    def enter(self, interval: int, tokens: float, since: float, now: float) -> None:
        """Let tokens wait in an interval of ages, in which they have been since a moment."""
        self._wait(interval, now)
        self._waiting[interval] += tokens
        self._waited[interval] += tokens * (now - since)

    def leave(self, interval: int, tokens: float, until: float, now: float) -> None:
        """Take tokens out of an interval in which they were until a moment."""
        self._wait(interval, now)
        self._waiting[interval] -= tokens
        self._waited[interval] -= tokens * (now - until)

    def hit(self, interval: int, tokens: float, now: float) -> None:
        """Count tokens that were used again now."""
        self.leave(interval, tokens, now, now)
        self._hits[interval] += tokens

    def soon_and_later(self, now: float) -> tuple[float, float]:
        """Return how likely tokens are to come again within 5 minutes, and after, in the hour."""
        hazard = 0.0
        for interval in _FIRST_5_MINUTES:
            hazard += self._hazard(interval, now)
        not_soon = math.exp(-hazard)
        hazard = 0.0
        for interval in _REST_OF_THE_HOUR:
            hazard += self._hazard(interval, now)
        return 1 - not_soon, not_soon * (1 - math.exp(-hazard))

    def probability(self, from_age: float, to_age: float, now: float) -> float:
        """Return how likely tokens not used again at one age are until another (seconds)."""
        hazard = 0.0
        for interval, (start, end) in enumerate(pairwise(AGES_SECONDS)):
            overlap = min(end, to_age) - max(start, from_age)
            if overlap > 0:
                hazard += self._hazard(interval, now) * overlap / (end - start)
        return 1 - math.exp(-hazard)

    def pause(self) -> None:
        """Forget the tokens that wait: their clock has stopped."""
        self._waiting = [0.0] * _LAST
        self._counted_at = [0.0] * _LAST

    def _wait(self, interval: int, now: float) -> None:
        self._waited[interval] += self._waiting[interval] * (now - self._counted_at[interval])
        self._counted_at[interval] = now

    def _hazard(self, interval: int, now: float) -> float:
        waited = self._waited[interval]
        waited += self._waiting[interval] * (now - self._counted_at[interval])
        seen = waited / _WIDTHS[interval]
        believed = self._strength * self._prior_hazards[interval]
        # Sums of floats that should cancel can end a little below zero.
        return max(0.0, self._hits[interval] + believed) / (max(0.0, seen) + self._strength)


class Segment(NamedTuple):
    """Neighbouring tokens of a request that are in the same situation."""

    start_tokens: int
    end_tokens: int
    rate: ReuseRate


class Use:
    """A request, for as long as it is not known which of its tokens will be used again.

    A later request takes over from the beginning, up to where it parts from this one.
    """

    __slots__ = ("at", "interval", "segments", "taken_tokens")

    def __init__(self, at: float, segments: Sequence[Segment]) -> None:
        self.at = at
        self.segments = segments
        self.interval = 0
        self.taken_tokens = 0

    def waiting(self, up_to_tokens: float = math.inf) -> Iterator[tuple[ReuseRate, int]]:
        """Yield the tokens of each segment that nobody has used again."""
        for start, end, rate in self.segments:
            tokens = min(end, up_to_tokens) - max(start, self.taken_tokens)
            if tokens > 0:
                yield rate, int(tokens)


class ReuseStatistics:
    """The reuse rates of all situations."""

    def __init__(self, prior_of: Callable[[Hashable], Prior]) -> None:
        self._prior_of = prior_of
        self._rates: dict[Hashable, ReuseRate] = {}
        self._waiting: list[deque[Use]] = [deque() for _ in _WIDTHS]

    @property
    def rates(self) -> Mapping[Hashable, ReuseRate]:
        """The rates of all situations that were met."""
        return self._rates

    def rate(self, situation: Hashable) -> ReuseRate:
        """Return the rate of a situation."""
        rate = self._rates.get(situation)
        if rate is None:
            rate = self._rates[situation] = ReuseRate(self._prior_of(situation))
        return rate

    def advance(self, now: float) -> None:
        """Let everything that waits grow older."""
        for interval, waiting in enumerate(self._waiting):
            end = AGES_SECONDS[interval + 1]
            while waiting and now - waiting[0].at > end:
                self._grow_older(waiting.popleft(), now)

    def use(self, segments: Sequence[Segment], now: float) -> Use:
        """Count a request and return its record."""
        use = Use(now, segments)
        for rate, tokens in use.waiting():
            rate.enter(0, tokens, now, now)
        self._waiting[0].append(use)
        return use

    def use_again(self, use: Use, up_to_tokens: int, now: float) -> None:
        """Count that a request begins with an earlier one's tokens up to here."""
        if use.interval < _LAST:
            for rate, tokens in use.waiting(up_to_tokens):
                rate.hit(use.interval, tokens, now)
        use.taken_tokens = max(use.taken_tokens, up_to_tokens)

    def pause(self) -> None:
        """Stop waiting for reuse, as where a trace ends and the next begins at its own zero."""
        self._waiting = [deque() for _ in _WIDTHS]
        for rate in self._rates.values():
            rate.pause()

    def _grow_older(self, use: Use, now: float) -> None:
        interval = use.interval
        turned = use.at + AGES_SECONDS[interval + 1]
        use.interval = interval + 1
        for rate, tokens in use.waiting():
            rate.leave(interval, tokens, turned, now)
            if use.interval < _LAST:
                rate.enter(use.interval, tokens, turned, now)
        if use.interval < _LAST:
            self._waiting[use.interval].append(use)
