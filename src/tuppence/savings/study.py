"""Prices the requests of a trace in all their ways and tells what was, and would be, saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

from tuppence.core.periods import EPOCH, LAST_YEAR, MICROS_PER_DAY, MICROS_PER_SECOND
from tuppence.core.usage import MeteredPart
from tuppence.errors import InvalidTrace, UnknownPrice
from tuppence.insights.savings import Measure, Savings, Way, Ways, compare
from tuppence.prices.model_facts import family_of
from tuppence.savings.recorded import PLAIN, Parts, Prices, Recorded, Traffic, uncached

SECONDS_PER_DAY = MICROS_PER_DAY // MICROS_PER_SECOND
MONTHS_PER_YEAR = 12
DEAR_FAMILIES = frozenset({"Opus", "Fable", "Mythos"})
BATCH = "batch"
LATEST_SECONDS = datetime(LAST_YEAR, 1, 1, tzinfo=UTC).timestamp()


class Study(NamedTuple):
    """What a trace says about savings."""

    requests: int
    unpriced: int
    """Of the requests, because a model has no known price: left out of everything else."""
    without_output: int
    """Requests whose output the trace does not tell: only their input is counted."""
    unreadable_lines: int
    days: Fraction | None
    """From the first request to the last, at least 1; None where there is no common clock."""
    projected: Savings
    """As it was, caching and terms that were billed included, and as it would have been."""
    untold: Mapping[Measure, str]
    """Measures that cannot be told of this trace, and why."""
    measured: Savings | None
    """Without caching and on standard terms, and as it was billed; None where not recorded."""


def study(traffic: Traffic, prices: Prices, limit_nanos: int | None = None) -> Study:
    """Return what the measures would have saved, and what those in use did save.

    Raises UnknownPrice where no request has a price, InvalidTrace for a time and InvalidUsage for
    a count that cannot be.
    """
    projected: list[Ways] = []
    billed: list[Recorded] = []
    times: list[float] = []
    requests = without_output = 0
    for request in traffic.requests:
        requests += 1
        _check(request)
        ways = _ways(request, request.sent, prices)
        if ways is None:
            continue
        projected.append(ways)
        times.append(request.at_seconds)
        without_output += not request.tells_output
        if request.billed:
            billed.append(request)
    if requests and not projected:
        raise UnknownPrice(
            "has no known price",
            field="model",
            value="every model of the trace",
            remedy="check --model, or set a price with `tuppence prices set`",
        )
    return Study(
        requests=requests,
        unpriced=requests - len(projected),
        without_output=without_output,
        unreadable_lines=traffic.unreadable_lines,
        days=_days(times) if traffic.has_clock else None,
        projected=compare(projected, traffic.measures, limit_nanos),
        untold=traffic.untold,
        measured=_measured(billed, prices),
    )


def _measured(billed: Sequence[Recorded], prices: Prices) -> Savings | None:
    """Return what caching and batch terms have saved, where the trace shows them."""
    measures: list[Measure] = []
    if any(_is_cached(part) for one in billed for part in one.billed):
        measures.append("caching")
    if any(part.terms.processing == BATCH for one in billed for part in one.billed):
        measures.append("batch")
    if not measures:
        return None
    sets = [frozenset[Measure]()]
    for measure in measures:
        sets += [applied | {measure} for applied in sets]
    ways = (
        _ways(one, {applied: _billed_with(one.billed, applied) for applied in sets}, prices)
        for one in billed
    )
    return compare([way for way in ways if way is not None], measures)


def _is_cached(part: MeteredPart) -> bool:
    return part.usage.prompt_tokens > part.usage.input_tokens


def _billed_with(parts: Parts, applied: frozenset[Measure]) -> Parts:
    """Return what was billed, without the measures that are not applied."""
    return tuple(
        MeteredPart(
            part.model,
            part.usage if "caching" in applied else uncached(part.usage),
            part.terms if "batch" in applied else part.terms._replace(processing=""),
        )
        for part in parts
    )


def _check(request: Recorded) -> None:
    if not abs(request.at_seconds) <= LATEST_SECONDS:
        raise InvalidTrace(
            f"is not a time up to the year {LAST_YEAR}",
            field="timestamp",
            value=request.at_seconds,
            remedy="check --format; docs/reference/replay.md shows what each format holds",
        )
    for part in request.sent.get(PLAIN, ()):
        part.usage.check()


def _ways(
    request: Recorded, sent: Mapping[frozenset[Measure], Parts], prices: Prices
) -> Ways | None:
    """Return a request priced in all its ways; None where one has no price."""
    if not sent:
        return None
    ways: dict[frozenset[Measure], Way] = {}
    for applied, parts in sent.items():
        cost = prices.cost_nanos(parts, request.at_seconds, request.provider)
        if cost is None:
            return None
        family = family_of(parts[0].model)
        ways[applied] = Way(
            cost_nanos=cost,
            is_strong=family is not None and family.name in DEAR_FAMILIES,
            prompt_tokens=sum(part.usage.prompt_tokens for part in parts),
            read_tokens=sum(part.usage.cache_read_tokens for part in parts),
        )
    return Ways(_month(request.at_seconds), ways)


def _month(at_seconds: float) -> int:
    moment = EPOCH + timedelta(seconds=at_seconds)
    return moment.year * MONTHS_PER_YEAR + moment.month


def _days(times: Sequence[float]) -> Fraction:
    span = Fraction(max(times)) - Fraction(min(times)) if times else Fraction(0)
    return max(Fraction(1), span / SECONDS_PER_DAY)
