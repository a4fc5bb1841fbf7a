"""Plans the cache markers of a Messages API request; usable with any client.

`plan` changes nothing: neither the request nor what the history decides later. Tell the history
with `history.record(plan)` when the request is sent, and with `history.settle(plan, usage)` what
the provider counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, cast

from tuppence.caching.automatic import (
    automatic_blocks,
    automatic_traits,
    cache_key,
    caches_by_itself,
    known_tokens,
)
from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR, Marker
from tuppence.caching.history import CacheHistory, Prompt, Shipment
from tuppence.caching.placement import Economics, Placement
from tuppence.caching.plain_request import plain_request
from tuppence.caching.positions import traits_of
from tuppence.caching.request_blocks import Block, RequestBlocks, blocks_of, place_name
from tuppence.caching.rules import CacheRules, cache_rules
from tuppence.core.money import round_half_even
from tuppence.errors import InvalidInput, UnknownPrice
from tuppence.language import mark

TTLS: Mapping[str, int | None] = {"auto": None, "5m": FIVE_MINUTES, "1h": ONE_HOUR}
TTL_NAMES = {seconds: name for name, seconds in TTLS.items()}

EXPECTATIONS: Mapping[str, Callable[[Prompt], int]] = {
    "learned": lambda _: 0,
    "static": lambda prompt: prompt.traits.static_tokens,
    "all": lambda prompt: prompt.path[-1].end_tokens,
}
"""How many tokens are known to be used again, by what the caller expects."""

REASONS: Mapping[str, str] = {
    "reads": mark("About {tokens} tokens are cached and will be read."),
    "writes": mark("Writes {tokens} tokens for {ttl}: they are expected to come again."),
    "sealed": mark(
        "Written for an hour: after a pause of more than five minutes, writing everything again "
        "would cost more."
    ),
    "below_minimum": mark(
        "Not cached: {tokens} tokens are less than the {minimum} that {model} caches."
    ),
    "minimum_unknown": mark(
        "The smallest prompt that {model} caches is not known; {minimum} tokens are assumed."
    ),
    "not_expected_again": mark(
        "{tokens} tokens at the end are not cached: they are not expected to come again in time."
    ),
    "volatile_prefix": mark(
        "{where} differs in every request, so nothing after it can be read from the cache; move "
        "what changes to the end."
    ),
    "allowance_used_up": mark(
        "Not cached: what was written lately has not been read enough to pay for more."
    ),
    "callers_markers": mark("The markers that the caller set are left as they are."),
    "cached_by_provider": mark(
        "The provider caches by itself; the first {tokens} tokens are the same as before and "
        "should stay so."
    ),
    "cache_key": mark(
        "prompt_cache_key is set, so that requests with this prefix meet the same cache."
    ),
    "unpriced": mark("{model} has no known price, so it cannot be told what caching would save."),
}
"""What a plan may say, by code. Codes are the same in every language."""


class Reason(NamedTuple):
    """Why a plan is as it is."""

    code: str
    message: str


class PlannedMarker(NamedTuple):
    """A marker: the place of its block in the request, its TTL, and the tokens up to it."""

    path: tuple[str | int, ...]
    ttl: str
    prefix_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """A request with markers, what they are expected to save, and why they stand there."""

    request: dict[str, Any] = field(repr=False)
    """A new request; the caller's is not changed, and unchanged parts are shared with it."""
    model: str
    markers: tuple[PlannedMarker, ...]
    reasons: tuple[Reason, ...]
    expected_saving_nanos: int
    """Against sending the prompt uncached; what is written counts with what it is expected to
    save later."""
    expected_read_tokens: int = 0
    expected_written_tokens: int = 0
    rules: CacheRules | None = None
    """What the decision rests on; None for a model without a price."""
    shipment: Shipment | None = field(default=None, repr=False)


def plan(
    request: Mapping[str, Any],
    model: str,
    history: CacheHistory,
    *,
    at: datetime | None = None,
    ttl: str = "auto",
    replace_markers: bool = False,
    expect_reuse: str = "learned",
) -> CachePlan:
    """Return the request with the cache markers that are expected to save most.

    `ttl` allows only "5m" or "1h". Markers that the caller set stay, and none is added to them,
    unless `replace_markers`. `expect_reuse` says what is known to be used again soon, and so worth
    writing at first sight: "static" (tools and system prompt), "all" (a conversation that goes on),
    or only what was "learned". Raises InvalidRequest for what the provider would refuse,
    InvalidInput for an unknown `ttl` or `expect_reuse`.
    """
    check_choice("ttl", ttl, TTLS)
    check_choice("expect_reuse", expect_reuse, EXPECTATIONS)
    moment = at or history.now()
    if caches_by_itself(model):
        return _automatic(request, model, history, moment)
    request = plain_request(request)
    blocks = blocks_of(request)
    path = history.path(model, blocks)
    rules = _rules(history, model, moment, path[-1].end_tokens)
    if rules is None:
        return unplanned(request, model, "unpriced")
    prompt = Prompt(model, blocks, path, traits_of(request, path, blocks))
    placement, segments = history.place(
        prompt,
        rules,
        moment.timestamp(),
        ttl_seconds=TTLS[ttl],
        certain_tokens=EXPECTATIONS[expect_reuse](prompt),
    )
    keep = has_markers(blocks) and not replace_markers
    markers = (
        callers_markers(blocks)
        if keep
        else movable(placement.markers, blocks.blocks, rules.most_markers)
    )
    shipment = Shipment(prompt, markers, segments, rules, moment.timestamp())
    return CachePlan(
        request=dict(request) if keep else with_markers(request, blocks, markers),
        model=model,
        markers=tuple(_planned(one, prompt) for one in markers),
        reasons=tuple(_reasons(history, placement, shipment, keep=keep)),
        expected_saving_nanos=0 if keep else _nanos(placement.worth_tokens, rules),
        expected_read_tokens=placement.cached_tokens,
        expected_written_tokens=placement.end_tokens - placement.cached_tokens,
        rules=rules,
        shipment=shipment,
    )


def _automatic(
    request: Mapping[str, Any], model: str, history: CacheHistory, moment: datetime
) -> CachePlan:
    """Return the plan of a request to a provider that caches by itself."""
    blocks = automatic_blocks(request)
    path = history.path(model, blocks)
    rules = _rules(history, model, moment, path[-1].end_tokens)
    if rules is None:
        return unplanned(request, model, "unpriced")
    at = moment.timestamp()
    prompt = Prompt(model, blocks, path, automatic_traits(request, path, blocks))
    known = known_tokens(path, at)
    known = known if known >= rules.minimum_tokens else 0
    reasons = [reason("cached_by_provider", tokens=known)]
    if path[-1].end_tokens < rules.minimum_tokens:
        reasons = [_below_minimum(path[-1].end_tokens, rules)]
    changed = dict(request)
    key = cache_key(blocks) if rules.provider == "openai" else None
    if key is not None and "prompt_cache_key" not in request:
        changed["prompt_cache_key"] = key
        reasons.append(reason("cache_key"))
    volatile = history.volatile_block(model, blocks)
    if volatile is not None:
        reasons.append(reason("volatile_prefix", where=place_name(volatile)))
    return CachePlan(
        request=changed,
        model=model,
        markers=(),
        reasons=tuple(reasons),
        expected_saving_nanos=_nanos(known * Economics.of(rules).read, rules),
        expected_read_tokens=known,
        rules=rules,
        shipment=Shipment(prompt, (), history.segments(prompt, at), rules, at),
    )


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raise InvalidInput for a value that is none of the choices."""
    if value not in choices:
        raise InvalidInput(
            "cannot be chosen",
            field=field,
            value=value,
            remedy=f"choose one of {', '.join(choices)}",
        )


def unplanned(request: Mapping[str, Any], model: str, code: str) -> CachePlan:
    """Return a plan that leaves the request as it is."""
    return CachePlan(
        request=dict(request),
        model=model,
        markers=(),
        reasons=(reason(code, model=model),),
        expected_saving_nanos=0,
    )


def reason(code: str, **values: object) -> Reason:
    """Return a reason in English; `REASONS` holds the texts to translate."""
    return Reason(code, REASONS[code].format(**values))


def has_markers(blocks: RequestBlocks) -> bool:
    """Tell whether the caller set a marker, or the automatic mode."""
    return blocks.automatic_ttl_seconds is not None or bool(callers_markers(blocks))


def callers_markers(blocks: RequestBlocks) -> tuple[Marker, ...]:
    """Return the markers that the caller set, the automatic one at its place."""
    markers = [
        Marker(index, block.ttl_seconds)
        for index, block in enumerate(blocks.blocks)
        if block.ttl_seconds is not None
    ]
    if blocks.automatic_ttl_seconds is not None:
        last = _cacheable_at_or_before(blocks.blocks, len(blocks.blocks) - 1)
        if last >= 0 and (not markers or markers[-1].place != last):
            markers.append(Marker(last, blocks.automatic_ttl_seconds))
    return tuple(markers)


def movable(markers: Sequence[Marker], blocks: Sequence[Block], most: int) -> tuple[Marker, ...]:
    """Return markers on blocks that can carry one: at the place meant, or the one before it."""
    moved = {
        index: one.ttl_seconds
        for one in markers
        if (index := _cacheable_at_or_before(blocks, one.place)) >= 0
    }
    return tuple(Marker(index, ttl) for index, ttl in sorted(moved.items()))[-most:]


def with_markers(
    request: Mapping[str, Any], blocks: RequestBlocks, markers: Sequence[Marker]
) -> dict[str, Any]:
    """Return a copy of a request that has these markers and no other."""
    changed: Any = {key: value for key, value in request.items() if key != "cache_control"}
    for block in blocks.blocks:
        if block.ttl_seconds is not None:
            changed = _changed(changed, block.path, _without_marker)
    for index, ttl_seconds in markers:
        control = {"type": "ephemeral"}
        if ttl_seconds == ONE_HOUR:
            control["ttl"] = "1h"
        changed = _changed(changed, blocks.blocks[index].path, partial(_with_marker, control))
    return cast("dict[str, Any]", changed)


def _changed(node: Any, path: Sequence[str | int], change: Callable[[Any], Any]) -> Any:
    """Return a copy in which what stands at the path is changed; what is beside it is shared."""
    if not path:
        return change(node)
    copy: Any = dict(node) if isinstance(node, Mapping) else list(node)
    copy[path[0]] = _changed(node[path[0]], path[1:], change)
    return copy


def _with_marker(control: Mapping[str, str], block: Any) -> Any:
    if isinstance(block, str):
        return [{"type": "text", "text": block, "cache_control": dict(control)}]
    return {**block, "cache_control": dict(control)}


def _without_marker(block: Any) -> Any:
    return {key: value for key, value in block.items() if key != "cache_control"}


def _cacheable_at_or_before(blocks: Sequence[Block], index: int) -> int:
    while index >= 0 and not blocks[index].cacheable:
        index -= 1
    return index


def _planned(marker: Marker, prompt: Prompt) -> PlannedMarker:
    return PlannedMarker(
        prompt.blocks.blocks[marker.place].path,
        TTL_NAMES[marker.ttl_seconds],
        prompt.path[marker.place].end_tokens,
    )


def _rules(
    history: CacheHistory, model: str, moment: datetime, prompt_tokens: int
) -> CacheRules | None:
    try:
        return cache_rules(
            history.book,
            model,
            at_seconds=int(moment.timestamp()),
            prompt_tokens=prompt_tokens,
        )
    except UnknownPrice:
        return None


def _reasons(
    history: CacheHistory, placement: Placement, shipment: Shipment, *, keep: bool
) -> Iterator[Reason]:
    """Yield why the markers stand where they do, and why there are not more."""
    prompt, rules = shipment.prompt, shipment.rules
    total = prompt.path[-1].end_tokens
    if keep:
        yield reason("callers_markers")
    if not rules.minimum_is_known:
        yield reason("minimum_unknown", model=rules.model, minimum=rules.minimum_tokens)
    volatile = history.volatile_block(prompt.model, prompt.blocks)
    if volatile is not None:
        yield reason("volatile_prefix", where=place_name(volatile))
    if keep:
        return
    if placement.cached_tokens:
        yield reason("reads", tokens=placement.cached_tokens)
    written = placement.end_tokens - placement.cached_tokens
    if written:
        ttl_seconds = placement.markers[-1].ttl_seconds
        yield reason("writes", tokens=written, ttl=TTL_NAMES[ttl_seconds])
        if ttl_seconds == ONE_HOUR:
            yield reason("sealed")
    if placement.end_tokens < total:
        if placement.reason == "below_minimum":
            yield _below_minimum(total, rules)
        else:
            yield reason(placement.reason, tokens=total - placement.end_tokens)


def _below_minimum(tokens: int, rules: CacheRules) -> Reason:
    return reason("below_minimum", tokens=tokens, minimum=rules.minimum_tokens, model=rules.model)


def _nanos(tokens: float, rules: CacheRules) -> int:
    worth = Fraction(tokens) * rules.input_rate
    return round_half_even(worth.numerator, worth.denominator)
