"""The words in which users hand over a call, and how they become a `Call` to book."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from tuppence.core.attribution import Attribution
from tuppence.core.periods import to_micros
from tuppence.core.usage import (
    STANDARD_TERMS,
    MeteredPart,
    MeteredResponse,
    Terms,
    Usage,
    other_units,
)
from tuppence.cost_tracking.booking import Call, key_of_caller, key_of_response
from tuppence.errors import InvalidInput


class AttributionRecord(TypedDict, total=False):
    """Who a call is charged to; every field may be left out."""

    user_id: str | None
    team_id: str | None
    project_id: str | None
    session_id: str | None
    agent_id: str | None
    task_type: str | None
    task_complexity: str | None
    tags: Sequence[str]
    """Each "name" or "name=value"."""
    timestamp: datetime | None
    """When the call was made; now where left out. A naive datetime is taken as UTC."""
    idempotency_key: str | None
    """A key of the caller's own: the same call with the same key is booked once."""
    hold_id: str | None
    """The hold that pays for the call: its settlement counts against budgets, the call does not."""


class UsageRecord(AttributionRecord, total=False):
    """One model call: counts as Anthropic gives them (input without the cached part)."""

    model: str
    provider: str | None
    """Id of the provider; found by the model's name where left out."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Tokens read from the prompt cache; the same as `cache_read_tokens`."""
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_write_other_tokens: int
    reasoning_tokens: int
    """Information: part of output_tokens already."""
    web_searches: int
    other_units: Mapping[str, int]
    """Other billed units by genai-prices' names, as {"input_audio_tokens": 120}."""
    batch: bool
    speed: str
    service_tier: str
    inference_geo: str
    response_id: str | None
    """The provider's id of the response: the same response is booked once, from any source."""
    output_complete: bool
    """False where the output was counted before it ended."""


_ATTRIBUTION_FIELDS = AttributionRecord.__optional_keys__
_USAGE_FIELDS = UsageRecord.__optional_keys__
_TERM_FIELDS = frozenset({"batch", "speed", "service_tier", "inference_geo"})


def call_of_record(record: UsageRecord, now: datetime, provider_of: Callable[[str], str]) -> Call:
    """Return the call that a record describes; `provider_of` finds the provider of a model.

    Raises InvalidInput for an unknown field or a missing model, InvalidUsage for a bad count.
    """
    _refuse_unknown(record, _USAGE_FIELDS)
    model = record.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidInput(
            "is not the name of a model",
            field="model",
            value=model,
            remedy="give the model's id, as claude-sonnet-5-5",
        )
    provider = record.get("provider") or provider_of(model)
    part = MeteredPart(model, _usage(record), _terms(record))
    return Call(
        _moment(record, now),
        _attribution(record),
        provider,
        (part,),
        _key(record, record.get("response_id"), provider),
        record.get("output_complete", True),
        _is_governed(record),
    ).check()


def call_of_response(
    response: MeteredResponse, provider: str, record: AttributionRecord, now: datetime
) -> Call:
    """Return the call that a provider's response was the answer to."""
    _refuse_unknown(record, _ATTRIBUTION_FIELDS)
    return call_of(
        response,
        provider,
        _attribution(record),
        _moment(record, now),
        key=_key(record, response.response_id, provider),
        governed=_is_governed(record),
    )


def call_of(
    response: MeteredResponse,
    provider: str,
    attribution: Attribution,
    occurred_at_micros: int,
    *,
    key: bytes | None = None,
    governed: bool = False,
) -> Call:
    """Return the call that a response was the answer to, by default under the response's own key.

    Raises InvalidUsage or InvalidInput for what cannot be booked.
    """
    if key is None and response.response_id:
        key = key_of_response(provider, response.response_id)
    if key is None and len(response.parts) > 1:
        key = key_of_caller(uuid.uuid4().hex)  # the parts of one call are found by their key
    complete = response.output_complete
    call = Call(occurred_at_micros, attribution, provider, response.parts, key, complete, governed)
    return call.check()


def _refuse_unknown(record: Mapping[str, Any], known: frozenset[str]) -> None:
    if type(record) is not dict and not isinstance(record, Mapping):  # the former is quicker
        raise InvalidInput(
            "is not a record", field="record", value=record, remedy='give {"model": ..., ...}'
        )
    if record.keys() <= known:
        return
    name = min(record.keys() - known)
    raise InvalidInput(
        "is not a field of a usage record",
        field=name,
        value=record[name],
        remedy=f"choose from {', '.join(sorted(known))}",
    )


def _usage(record: UsageRecord) -> Usage:
    read = record.get("cache_read_tokens")
    cached = record.get("cached_tokens", read)
    if cached != read and read is not None:
        raise InvalidInput(
            f"differs from cache_read_tokens={read}",
            field="cached_tokens",
            value=cached,
            remedy="give only one of the two: they mean the same",
        )
    units = other_units(_other_units(record)) if "other_units" in record else ()
    searches = record.get("web_searches", 0)
    return Usage(
        record.get("input_tokens", 0),
        record.get("cache_write_5m_tokens", 0),
        record.get("cache_write_1h_tokens", 0),
        record.get("cache_write_other_tokens", 0),
        0 if cached is None else cached,
        record.get("output_tokens", 0),
        record.get("reasoning_tokens", 0),
        other_units({**dict(units), "web_searches": searches}) if searches else units,
    )


def _other_units(record: UsageRecord) -> dict[str, int]:
    units = record["other_units"] or {}
    if "web_searches" in units and record.get("web_searches"):
        raise InvalidInput(
            "are given under other_units too",
            field="web_searches",
            value=record["web_searches"],
            remedy="give them only once",
        )
    return dict(units)


def _terms(record: UsageRecord) -> Terms:
    if _TERM_FIELDS.isdisjoint(record):
        return STANDARD_TERMS
    tier = record.get("service_tier") or ""
    speed = record.get("speed") or ""
    return Terms(
        "batch" if record.get("batch") or tier == "batch" else "",
        "" if speed == "standard" else speed,
        "" if tier in {"batch", "standard", "default", "auto"} else tier,
        record.get("inference_geo") or "",
    )


def _attribution(record: AttributionRecord) -> Attribution:
    tags = record.get("tags")
    if tags is not None:
        _refuse_no_texts(tags)
    return Attribution(
        record.get("team_id") or "",
        record.get("project_id") or "",
        record.get("user_id") or "",
        record.get("task_type") or "",
        record.get("task_complexity") or "",
        tuple(sorted(set(tags))) if tags else (),
        record.get("session_id") or "",
        record.get("agent_id") or "",
    )


def _refuse_no_texts(tags: object) -> None:
    if isinstance(tags, Iterable) and not isinstance(tags, str):
        tags = tuple(tags)
        if all(isinstance(tag, str) for tag in tags):
            return
    raise InvalidInput("is not a list of texts", field="tags", value=tags, remedy='give ["a", "b"]')


def _moment(record: AttributionRecord, now: datetime) -> int:
    moment = record.get("timestamp")
    if moment is None:
        return to_micros(now)
    if not isinstance(moment, datetime):
        raise InvalidInput(
            "is not a datetime", field="timestamp", value=moment, remedy="give a datetime in UTC"
        )
    return to_micros(moment)


def _is_governed(record: AttributionRecord) -> bool:
    hold: object = record.get("hold_id")
    if hold is None or (isinstance(hold, str) and hold.startswith("h")):
        return hold is not None
    raise InvalidInput(
        "is not the id of a hold", field="hold_id", value=hold, remedy="give an id as h100000002"
    )


def _key(record: AttributionRecord, response_id: str | None, provider: str) -> bytes | None:
    key = record.get("idempotency_key")
    if key:
        return key_of_caller(key)
    return key_of_response(provider, response_id) if response_id else None
