"""Puts recorded traffic through cache policies and tells what each would have been billed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypedDict

from tuppence.caching.entries import FIVE_MINUTES, NOTHING, ONE_HOUR, CacheEntries, Served
from tuppence.caching.hindsight import Hindsight
from tuppence.caching.placement import Economics, prior_of, record_use, segments_of
from tuppence.caching.policies import (
    AdaptivePolicy,
    FixedPolicy,
    Policy,
    Sent,
    first_block,
    last_block,
    no_places,
    system_and_last,
)
from tuppence.caching.prefix_tree import Position
from tuppence.caching.reuse import ReuseStatistics
from tuppence.caching.rules import CacheRules, cache_rules
from tuppence.caching.traces import Stream, TraceRequest
from tuppence.core.money import round_half_even, to_dollars
from tuppence.core.price_book import PriceBook
from tuppence.errors import UnknownPrice

TTL_NAMES: Mapping[int | None, str] = {FIVE_MINUTES: "5m", ONE_HOUR: "1h", None: "auto"}


class PolicyResult(TypedDict):
    """What a policy would have been billed."""

    policy: str
    ttl: str
    input_usd: float
    saving_percent: float
    read_tokens: int
    written_tokens: int
    wasted_written_tokens: int


class ReplayResult(TypedDict):
    """What a trace would have cost under each policy; input only."""

    requests: int
    unpriced_requests: int
    """Requests to models without a price: left out of everything else."""
    input_tokens: int
    no_cache_usd: float
    policies: list[PolicyResult]


class Choice(NamedTuple):
    """A policy to replay, by name and TTL."""

    name: str
    ttl_seconds: int | None


ADAPTIVE = ("adaptive", "adaptive+keep-alive")
BOUNDS = ("ideal", "oracle")
FIXED = {
    "none": no_places,
    "first-block": first_block,
    "last": last_block,
    "system+last": system_and_last,
}
POLICIES: Mapping[str, tuple[int | None, ...]] = {
    "none": (None,),
    "first-block": (FIVE_MINUTES,),
    "last": (FIVE_MINUTES, ONE_HOUR),
    "system+last": (FIVE_MINUTES, ONE_HOUR),
    "adaptive": (None,),
    "adaptive+keep-alive": (None,),
    "ideal": (FIVE_MINUTES,),
    "oracle": (None,),
}
"""The policies, with the TTLs that each is replayed with when none is asked for."""


class Tier(NamedTuple):
    """What holds for a model's prompts of some size."""

    rules: CacheRules
    economics: Economics


class RuleBook:
    """The cache rules of models at one date, by the context tier of the prompt."""

    def __init__(self, book: PriceBook, at_seconds: int) -> None:
        self._book = book
        self._at_seconds = at_seconds
        self._tiers: dict[str, list[tuple[int, Tier]]] = {}

    def tier(self, model: str, prompt_tokens: int) -> Tier | None:
        """Return the rules for a prompt of this size; None where the model has no price."""
        tiers = self._tiers.get(model)
        if tiers is None:
            tiers = self._tiers[model] = self._read(model)
        return next((tier for above, tier in tiers if prompt_tokens > above), None)

    def _read(self, model: str) -> list[tuple[int, Tier]]:
        price = self._book.price(model, self._at_seconds)
        if price is None:
            return []
        return [(above, self._tier(model, above + 1)) for above, _ in reversed(price.cards)]

    def _tier(self, model: str, prompt_tokens: int) -> Tier:
        at_seconds = self._at_seconds
        rules = cache_rules(self._book, model, at_seconds=at_seconds, prompt_tokens=prompt_tokens)
        return Tier(rules, Economics.of(rules))


class Bill:
    """Token counts by the rates that they are charged at; dollars are worked out once, exactly."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[CacheRules, list[int]]] = {}
        self.read_tokens = 0
        self.written_tokens = 0

    def add(self, rules: CacheRules, input_tokens: int, served: Served) -> None:
        """Add a request."""
        _, counts = self._counts.setdefault(id(rules), (rules, [0, 0, 0, 0]))
        counts[0] += input_tokens - served.covered_tokens
        counts[1] += served.read_tokens
        counts[2] += served.written_5m_tokens
        counts[3] += served.written_1h_tokens
        self.read_tokens += served.read_tokens
        self.written_tokens += served.written_5m_tokens + served.written_1h_tokens

    def nanos(self) -> Fraction:
        """Return what all requests cost."""
        total = Fraction(0)
        for rules, (plain, read, written_5m, written_1h) in self._counts.values():
            total += plain * rules.input_rate + read * rules.read_rate
            total += written_5m * rules.write_rates.get(FIVE_MINUTES, rules.input_rate)
            total += written_1h * rules.write_rates.get(ONE_HOUR, rules.input_rate)
        return total


class Lane:
    """One policy on its way through a trace."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.bill = Bill()
        self.wasted_tokens = 0
        self._policy = _policy(choice)
        self._caches: dict[str, CacheEntries] = {}
        self._rules: CacheRules | None = None
        self._last = (NOTHING, CacheEntries())

    def serve(self, request: TraceRequest, sent: Sent, rules: CacheRules, stream: Stream) -> Served:
        """Answer a request as the provider would, with this policy's markers; return the counts."""
        self._refresh(sent.at)
        served = NOTHING
        cache = self._caches.get(request.model)
        if cache is None:
            cache = self._caches[request.model] = CacheEntries(stream.lookback_positions)
        if sent.path:
            markers = self._policy.markers(sent, cache)
            served = cache.serve(sent.path, markers, sent.at, sent.minimum_tokens)
        self.bill.add(rules, request.input_tokens, served)
        self._rules, self._last = rules, (served, cache)
        return served

    def learn(self, sent: Sent) -> None:
        """Let the policy learn from the request served last."""
        served, cache = self._last
        self._policy.served(sent, served, cache)

    def end_stream(self) -> None:
        """Forget the caches of a stream and count what they wasted."""
        self._refresh(math.inf)
        for cache in self._caches.values():
            cache.end()
            self.wasted_tokens += cache.wasted_tokens
        self._caches.clear()
        self._policy.end_stream()

    def nanos(self) -> Fraction:
        """Return what all requests cost."""
        return self.bill.nanos()

    def _refresh(self, before: float) -> None:
        """Pay for what is sent to keep prefixes alive until a moment."""
        for served in self._policy.refreshes(before):
            if self._rules is not None:
                self.bill.add(self._rules, served.covered_tokens, served)

    @property
    def token_counts(self) -> tuple[int, int, int]:
        """Tokens read, written, and written in vain."""
        return self.bill.read_tokens, self.bill.written_tokens, self.wasted_tokens


class Past(NamedTuple):
    """A request of a stream that has ended, with its final path."""

    request: TraceRequest
    rules: CacheRules
    path: Sequence[Position]


class HindsightLane:
    """The best there could have been, with one TTL or with any."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self._nanos = Fraction(0)
        self._read_tokens = 0
        self._written_tokens = 0

    def add_stream(self, requests: Sequence[Past]) -> None:
        """Count a whole stream."""
        models: dict[str, tuple[Hindsight, CacheRules]] = {}
        for request, rules, path in reversed(requests):
            hindsight, base = models.get(request.model) or models.setdefault(
                request.model, (Hindsight(Economics.of(rules), self.choice.ttl_seconds), rules)
            )
            hindsight.add_earlier(request.at, path, float(rules.input_rate / base.input_rate))
            covered = path[-1].end_tokens if path else 0
            self._nanos += (request.input_tokens - covered) * rules.input_rate
        for hindsight, base in models.values():
            best = hindsight.best()
            self._nanos += Fraction(best.plain_tokens) * base.input_rate
            self._read_tokens += best.read_tokens
            self._written_tokens += best.written_tokens

    def nanos(self) -> Fraction:
        """Return what all requests cost."""
        return self._nanos

    @property
    def token_counts(self) -> tuple[int, int, int]:
        """Tokens read, written, and written in vain."""
        return self._read_tokens, self._written_tokens, 0


def replay(
    streams: Iterable[Stream], choices: Sequence[Choice], rule_book: RuleBook
) -> ReplayResult:
    """Return what the requests would have cost under each policy; only input is counted."""
    statistics = ReuseStatistics(prior_of)
    online = [Lane(choice) for choice in choices if choice.name not in BOUNDS]
    bounds = [HindsightLane(choice) for choice in choices if choice.name in BOUNDS]
    learns = any(choice.name in ADAPTIVE for choice in choices)
    plain = Bill()
    totals = Counter[str]()
    model = ""
    for stream in streams:
        priced: list[tuple[TraceRequest, CacheRules]] = []
        for request in stream.requests:
            model = request.model
            tier = rule_book.tier(model, request.input_tokens)
            totals["requests"] += 1
            if tier is None:
                totals["unpriced"] += 1
                continue
            rules = tier.rules
            totals["input_tokens"] += request.input_tokens
            plain.add(rules, request.input_tokens, NOTHING)
            sent = _sent(request, tier, statistics)
            for lane in online:
                lane.serve(request, sent, rules, stream)
            if learns and sent.path:
                _learn(sent, online, statistics)
            if bounds:
                priced.append((request, rules))
        for lane in online:
            lane.end_stream()
        statistics.pause()
        if bounds:
            past = [Past(request, rules, request.path()) for request, rules in priced]
            for bound in bounds:
                bound.add_stream(past)
    lanes: list[Lane | HindsightLane] = [*online, *bounds]
    lanes.sort(key=lambda lane: choices.index(lane.choice))
    return _result(totals, plain.nanos(), lanes, model)


class Answered(NamedTuple):
    """A request with what the provider would have counted of its prompt."""

    request: TraceRequest
    served: Served | None
    """None where the model has no price."""


def answer_adaptively(streams: Iterable[Stream], rule_book: RuleBook) -> Iterator[Answered]:
    """Yield every request as it is answered under the adaptive policy, in the trace's order.

    Together they are what `replay` says of the policy "adaptive".
    """
    statistics = ReuseStatistics(prior_of)
    lane = Lane(Choice("adaptive", None))
    for stream in streams:
        for request in stream.requests:
            tier = rule_book.tier(request.model, request.input_tokens)
            if tier is None:
                yield Answered(request, None)
                continue
            sent = _sent(request, tier, statistics)
            served = lane.serve(request, sent, tier.rules, stream)
            if sent.path:
                _learn(sent, (lane,), statistics)
            yield Answered(request, served)
        lane.end_stream()
        statistics.pause()


def choices_of(names: Sequence[str], ttl: str) -> list[Choice]:
    """Return the policies to replay; `ttl` other than "auto" fixes it for all of them."""
    fixed = {name: seconds for seconds, name in TTL_NAMES.items()}[ttl]
    return [
        Choice(name, seconds)
        for name in names
        for seconds in (POLICIES[name] if fixed is None or name == "none" else (fixed,))
    ]


def _policy(choice: Choice) -> Policy:
    if choice.name in ADAPTIVE:
        return AdaptivePolicy(choice.ttl_seconds, keep_alive=choice.name != "adaptive")
    return FixedPolicy(FIXED[choice.name], choice.ttl_seconds or FIVE_MINUTES)


def _learn(sent: Sent, lanes: Iterable[Lane], statistics: ReuseStatistics) -> None:
    """Count a request in what all policies learn from, and let each learn of its own outcome."""
    record_use(sent.path, sent.at, sent.segments, statistics)
    for lane in lanes:
        lane.learn(sent)


def _sent(request: TraceRequest, tier: Tier, statistics: ReuseStatistics) -> Sent:
    path = request.path()
    return Sent(
        request.at,
        path,
        request.traits,
        request.input_tokens,
        tier.rules.minimum_tokens,
        tier.economics,
        segments_of(path, request.at, request.traits, statistics) if path else (),
    )


def _result(
    totals: Counter[str],
    plain_nanos: Fraction,
    lanes: Sequence[Lane | HindsightLane],
    model: str,
) -> ReplayResult:
    if totals["requests"] and totals["unpriced"] == totals["requests"]:
        raise UnknownPrice(
            "has no known price, and neither has any other of the trace",
            field="model",
            value=model,
            remedy="check --model, or set a price with `tuppence prices set`",
        )
    results = []
    for lane in lanes:
        nanos = lane.nanos()
        read, written, wasted = lane.token_counts
        results.append(
            PolicyResult(
                policy=lane.choice.name,
                ttl=TTL_NAMES[lane.choice.ttl_seconds],
                input_usd=to_dollars(_rounded(nanos)),
                saving_percent=float(100 * (1 - nanos / plain_nanos)) if plain_nanos else 0.0,
                read_tokens=read,
                written_tokens=written,
                wasted_written_tokens=wasted,
            )
        )
    return ReplayResult(
        requests=totals["requests"],
        unpriced_requests=totals["unpriced"],
        input_tokens=totals["input_tokens"],
        no_cache_usd=to_dollars(_rounded(plain_nanos)),
        policies=results,
    )


def _rounded(nanos: Fraction) -> int:
    return round_half_even(nanos.numerator, nanos.denominator)
