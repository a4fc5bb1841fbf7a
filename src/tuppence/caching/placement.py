"""Where to put cache markers, for how long, and when not to: decided from the past alone.

The tokens of a request that are not cached fall into segments, each with its own probability of
being used again (`reuse`). Writing a segment for five minutes costs `w` more than sending it plain
and saves `g` when it is used again in time; where it is not written now, it can still be written
when it comes the second time, which costs `w` then. So it pays now if

    p * (g + w) > w

which for Anthropic's usual rates is p > 0.25 / 1.15 = 22%. The last marker stands where the sum
over the segments is largest.

An hour costs more (`w1`), and it has to be paid only for the tokens above the longest prefix that
is cached: by the A/B/C rule a marker with the longer TTL covers everything below it. A conversation
is therefore written for five minutes again and again, at the low price, and *sealed* for an hour
when what would be lost by a longer pause is worth more than `w1 - w` for the new tokens.

No decision may cost much: an `Allowance` stops speculation whose outcome is bad or not yet known.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR, CacheEntries, Marker, Served
from tuppence.caching.prefix_tree import Position
from tuppence.caching.reuse import Prior, ReuseStatistics, Segment, Use
from tuppence.caching.rules import CacheRules

MARGIN = 0.04
"""By how much of the plain price writing must pay: estimates near break-even are mostly noise."""
SHORT_TOKENS = 2_500
LONG_TOKENS = 20_000
MOST_USES_COUNTED = 4
CONTINUATION_TURNS = 2
SHORTEST_REQUEST_TOKENS = 1_000
"""A shorter request that another begins with is a template, not a conversation."""


class Economics(NamedTuple):
    """Prices of caching a token, as multiples of its plain price."""

    write_5m: float = 0.25
    """What writing for five minutes costs more than sending the token plain."""
    write_1h: float | None = 1.0
    """The same for an hour; None where that cannot be had."""
    read: float = 0.9
    """What reading saves."""

    @classmethod
    def of(cls, rules: CacheRules) -> Economics:
        """Return what holds under a model's rules."""
        plain = rules.input_rate
        hour = rules.write_rates.get(ONE_HOUR)
        return cls(
            write_5m=float(rules.write_rates.get(FIVE_MINUTES, plain) / plain) - 1,
            write_1h=None if hour is None else float(hour / plain) - 1,
            read=1 - float(rules.read_rate / plain),
        )


class RequestTraits(NamedTuple):
    """What a request looks like, beside its prefix."""

    has_tools: bool = False
    """It offers tools: an agent, whose requests follow each other closely."""
    by_person: bool = False
    """A person wrote its last message; agents' last message is a tool's result."""
    turns: int = 0
    """How many answers the conversation holds."""
    static_tokens: int = 0
    """Tokens of tools and system prompt, which other conversations may share."""


class Placement(NamedTuple):
    """Markers, and why they stand where they do."""

    markers: tuple[Marker, ...]
    cached_tokens: int
    """Tokens that are expected to be read."""
    end_tokens: int
    """Tokens that will be cached afterwards."""
    worth_tokens: float
    """What the markers are expected to save, in plain tokens."""
    reason: str
    """Why what follows `end_tokens` is not written."""


@dataclass(slots=True)
class Allowance:
    """What may be lost by caching: nothing is written whose loss it could not bear.

    Counted in plain tokens: it begins with a grant, grows with every prompt and with everything
    read, and shrinks with everything written. Caching can thus never cost more than the grant,
    which is half of the longest prompt, and `share` of what all prompts cost without it.
    """

    left_tokens: float = 20_000.0
    granted_tokens: float = 20_000.0
    share: float = 0.003

    def covers(self, premium_tokens: float, prompt_tokens: int) -> bool:
        """Tell whether this premium may be paid for a prompt of so many tokens."""
        grant = prompt_tokens / 2
        if grant > self.granted_tokens:
            self.left_tokens += grant - self.granted_tokens
            self.granted_tokens = grant
        return premium_tokens <= self.left_tokens

    def pay(self, tokens: float) -> None:
        """Count what keeping a prefix alive costs."""
        self.left_tokens -= tokens

    def count(self, prompt_tokens: int, served: Served, economics: Economics) -> None:
        """Count what caching saved and cost of a request."""
        self.left_tokens += self.share * prompt_tokens + served.read_tokens * economics.read
        self.left_tokens -= served.written_5m_tokens * economics.write_5m
        self.left_tokens -= served.written_1h_tokens * (economics.write_1h or economics.write_5m)


class Odds(NamedTuple):
    """How likely a part of a prompt is to come again within 5 minutes, and later in the hour."""

    start_tokens: int
    end_tokens: int
    soon: float
    later: float


class _Choice(NamedTuple):
    """What is weighed: the prices, and the TTLs that may be had."""

    economics: Economics
    ttl_seconds: int | None

    def worth_per_token(self, part: Odds) -> float:
        """Return what writing a token now is expected to save, the better of the TTLs allowed."""
        write_5m, write_1h, read = self.economics
        worths = []
        if self.ttl_seconds != ONE_HOUR:
            worths.append(part.soon * (read + write_5m) - write_5m)
        if self.ttl_seconds != FIVE_MINUTES and write_1h is not None:
            worths.append((part.soon + part.later) * (read + write_5m) - write_1h)
        return max(worths, default=0.0) - MARGIN

    def cheaper_ttls(self, ttl_seconds: int) -> tuple[int, ...]:
        """Return a TTL and, where it may be had instead, the cheaper one."""
        may_change = ttl_seconds == ONE_HOUR and self.ttl_seconds is None
        return (ONE_HOUR, FIVE_MINUTES) if may_change else (ttl_seconds,)

    def premium(self, ttl_seconds: int) -> float:
        """Return what writing costs more than sending plain."""
        write_5m, write_1h, _ = self.economics
        return write_1h if ttl_seconds == ONE_HOUR and write_1h is not None else write_5m


def prior_of(situation: Hashable) -> Prior:
    """Return what is believed of a situation before the first experience.

    The beliefs were chosen on traces of agents (callanjfox/kv-cache-tester) and chats (Mooncake):
    docs/explanation/caching.md says how. They decide the first requests only.
    """
    match situation:
        case ("seen", _, _, True) | ("new", _, _, True, _):
            return Prior(0.9, 0.3, 20_000)
        case ("static", True):
            return Prior(0.9, 0.3, 20_000)
        case ("static", False):
            return Prior(0.5, 0.1, 20_000)
        case ("seen", int() as uses, recency, False):
            likely = 0.34 if recency == "live" else 0.24
            return Prior(likely + 0.08 * uses, 0.1, 500_000)
        case ("new", 0, _, False, _):
            return Prior(0.05, 0.05, 2_000_000)
        case ("new", turns, size, False, _):
            likely = 0.4 if size == "short" or turns == CONTINUATION_TURNS else 0.1
            return Prior(likely, 0.05, 50_000)
    raise AssertionError(situation)


def place(  # noqa: PLR0913 - a decision rests on all of these
    path: Sequence[Position],
    at: float,
    traits: RequestTraits,
    segments: Sequence[Segment],
    entries: CacheEntries,
    allowance: Allowance,
    *,
    economics: Economics,
    minimum_tokens: int,
    ttl_seconds: int | None = None,
    certain_tokens: int = 0,
) -> Placement:
    """Decide on a request. Nothing is counted: `record_use` does that when it is really sent.

    `segments` are those that `segments_of` returns for it. `ttl_seconds` allows only one TTL, None
    chooses. The first `certain_tokens` are known to come again, because the caller says so.
    """
    odds = [
        Odds(one.start_tokens, one.end_tokens, *one.rate.soon_and_later(at)) for one in segments
    ]
    hit = entries.longest(path, at)
    cached = path[hit].end_tokens if hit >= 0 else 0
    choice = _Choice(economics, ttl_seconds)
    end, worth = best_end(odds, cached, choice)
    reason = "not_expected_again"
    if end < certain_tokens:
        end, worth = certain_tokens, (certain_tokens - cached) * economics.read
    if 0 < end < minimum_tokens:
        end, worth, reason = cached, 0.0, "below_minimum"
    ttl = choose_ttl(odds, sealed_tokens(path, at, entries), (cached, end), choice)
    affordable = [
        seconds
        for seconds in choice.cheaper_ttls(ttl)
        if allowance.covers((end - cached) * choice.premium(seconds), path[-1].end_tokens)
    ]
    if affordable:
        ttl = affordable[0]
    elif end > max(cached, certain_tokens):
        end, worth, reason = max(cached, certain_tokens), 0.0, "allowance_used_up"
    if hit >= 0 and end == cached:
        entry = entries.live(path[hit], at)
        ttl = entry.ttl_seconds if entry is not None else ttl
    markers = markers_at(path, hit, end, ttl, traits)
    return Placement(markers, cached, end, worth + cached * economics.read, reason)


def record_use(
    path: Sequence[Position],
    at: float,
    segments: Sequence[Segment],
    statistics: ReuseStatistics,
) -> None:
    """Count that a request is sent: what it has in common with earlier ones was used again."""
    statistics.advance(at)
    for _, position in _seen_runs(path):
        if position.last_use is not None:
            statistics.use_again(position.last_use, position.end_tokens, at)
    use = statistics.use(segments, at)
    for position in path:
        position.uses += 1
        position.last_use = use
    path[-1].ends_request = True


def segments_of(
    path: Sequence[Position], at: float, traits: RequestTraits, statistics: ReuseStatistics
) -> list[Segment]:
    """Return a prompt by how likely its parts are to come again."""
    statistics.advance(at)
    seen = seen_segments(path, at, traits, statistics)
    return seen + new_segments(path, traits, statistics, seen)


def seen_segments(
    path: Sequence[Position], at: float, traits: RequestTraits, statistics: ReuseStatistics
) -> list[Segment]:
    """Return the segments that earlier requests began with."""
    segments: list[Segment] = []
    start = 0
    for use, position in _seen_runs(path):
        age = at - use.at
        recency = "live" if age <= FIVE_MINUTES else "hour" if age <= ONE_HOUR else "old"
        situation = ("seen", min(position.uses, MOST_USES_COUNTED), recency, traits.has_tools)
        segments.append(Segment(start, position.end_tokens, statistics.rate(situation)))
        start = position.end_tokens
    return segments


def _seen_runs(path: Sequence[Position]) -> Iterator[tuple[Use, Position]]:
    """Yield the last position of each run that the same earlier request was the last to use."""
    for index, position in enumerate(path):
        use = position.last_use
        if use is None:
            return
        if index + 1 == len(path) or path[index + 1].last_use is not use:
            yield use, position


def new_segments(
    path: Sequence[Position],
    traits: RequestTraits,
    statistics: ReuseStatistics,
    seen: Sequence[Segment],
) -> list[Segment]:
    """Return the segments that no request had before: tools and system prompt, and the rest."""
    start, end = seen[-1].end_tokens if seen else 0, path[-1].end_tokens
    segments = []
    static_end = min(traits.static_tokens, end)
    if start < static_end:
        rate = statistics.rate(("static", traits.has_tools))
        segments.append(Segment(start, static_end, rate))
        start = static_end
    if start < end:
        tokens = end - start
        size = "short" if tokens < SHORT_TOKENS else "long" if tokens > LONG_TOKENS else "medium"
        turns = min(max(_continued(path), traits.turns), CONTINUATION_TURNS)
        situation = ("new", turns, size, traits.has_tools, traits.by_person)
        segments.append(Segment(start, end, statistics.rate(situation)))
    return segments


def best_end(odds: Sequence[Odds], cached_tokens: int, choice: _Choice) -> tuple[int, float]:
    """Return up to which token to cache, and what that is worth in plain tokens."""
    end, worth, best = cached_tokens, 0.0, 0.0
    for part in odds:
        tokens = part.end_tokens - max(part.start_tokens, cached_tokens)
        if tokens > 0:
            worth += tokens * choice.worth_per_token(part)
            if worth > best:
                end, best = part.end_tokens, worth
    return end, best


def choose_ttl(
    odds: Sequence[Odds], sealed_tokens: int, span: tuple[int, int], choice: _Choice
) -> int:
    """Return the TTL for what lies between two places: an hour where a pause would cost more.

    `sealed_tokens` are cached for an hour already; what lies above them would be lost.
    """
    economics = choice.economics
    if choice.ttl_seconds is not None:
        return choice.ttl_seconds
    if economics.write_1h is None:
        return FIVE_MINUTES
    cached, end = span
    loss = 0.0
    for part in odds:
        tokens = min(part.end_tokens, end) - max(part.start_tokens, sealed_tokens)
        if tokens > 0:
            loss += tokens * part.later * (economics.read + economics.write_5m)
    extra = (economics.write_1h - economics.write_5m) * (end - cached)
    return ONE_HOUR if loss > extra else FIVE_MINUTES


def markers_at(
    path: Sequence[Position], hit: int, end_tokens: int, ttl_seconds: int, traits: RequestTraits
) -> tuple[Marker, ...]:
    """Return the markers: one to read by, one at the end, and those that let others share.

    Others share the tools and system prompt, and what more requests had in common than went on to
    the end.
    """
    wanted = []
    for index in range(hit + 1, len(path)):
        position = path[index]
        if position.end_tokens > end_tokens:
            break
        shared = index + 1 < len(path) and position.uses > path[index + 1].uses
        if shared or position.end_tokens in {end_tokens, traits.static_tokens}:
            wanted.append(index)
    markers = [Marker(index, ttl_seconds) for index in wanted[-3:]]
    return ((Marker(hit, ttl_seconds),) if hit >= 0 else ()) + tuple(markers)


def sealed_tokens(path: Sequence[Position], at: float, entries: CacheEntries) -> int:
    """Return how many tokens of a path are cached for an hour."""
    for position in reversed(path):
        entry = entries.live(position, at)
        if entry is not None and entry.ttl_seconds == ONE_HOUR:
            return position.end_tokens
    return 0


def _continued(path: Sequence[Position]) -> int:
    """Return how many earlier requests this one goes on after, 0 where the last was another's."""
    count, last = 0, None
    for position in path:
        if not position.uses:
            break
        last = position
        count += position.ends_request and position.end_tokens > SHORTEST_REQUEST_TOKENS
    return count if last is not None and last.ends_request else 0
