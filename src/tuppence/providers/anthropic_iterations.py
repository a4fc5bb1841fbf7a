"""Which iterations of an Anthropic response are outside its top-level usage.

Type names are those of the SDK (anthropic 2.12). What the top-level counts (`BetaUsage`) cover:

* They describe the attempt that produced the returned message, all its sampling turns together, and
  are authoritative for it. `message` entries (`BetaMessageIterationUsage`) without a model, or of
  the serving model, and the `fallback_message` entry (`BetaFallbackMessageIterationUsage`) only
  repeat them: they are never added, even where their sum differs.
* Outside, and each billed by itself: `compaction` (`BetaCompactionIterationUsage`, "not included in
  the top-level `usage` fields"), `advisor_message` (`BetaAdvisorMessageIterationUsage`, of the
  advisor's model), and entries of any type that name another model: attempts that declined and
  handed over. An attempt that declined before any output is not billed (documentation on
  refusals and fallback: every attempt that generated output is billed at the rates of the model
  that ran it).
* A `fallback_message` entry names the model that served, whatever model was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tuppence.providers.counts import count, mapping_at, text_at

Entry = Mapping[str, Any]

DATE_SUFFIX = re.compile(r"-20\d{6}$")
DIVISION = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def repeats_top_level(usage: Mapping[str, Any], model: str) -> bool:
    """Whether the iterations are one plain sampling turn, which most responses have."""
    entries = usage["iterations"]
    return (
        type(entries) is list
        and len(entries) == 1
        and type(entry := entries[0]) is dict
        and entry.get("type") == "message"
        and entry.get("model", model) == model
        and (not usage.get("cache_creation_input_tokens") or bool(usage.get("cache_creation")))
    )


def serving_model(entries: Sequence[Entry], model: str) -> str:
    """Return the model that the top-level counts are of."""
    for entry in reversed(entries):
        if entry.get("type") == "fallback_message":
            return text_at(entry, "model") or model
    return model


def entries_outside(entries: Sequence[Entry], model: str) -> list[Entry]:
    """Return the billed entries that the top-level counts do not cover."""
    if any(_is_served_by(entry, model) for entry in entries):
        return [entry for entry in entries if not _is_served_by(entry, model) and _is_billed(entry)]
    # No entry is the serving model's: it goes by another spelling here, and `message` is its own.
    return [entry for entry in entries if entry.get("type") != "message"]


def with_division(
    usage: Mapping[str, Any], entries: Sequence[Entry], model: str
) -> Mapping[str, Any]:
    """Return usage with the 5m/1h division of cache writes, where only the iterations tell it.

    `MessageDeltaUsage`, which ends a stream, has the total only.
    """
    written = count(usage, "cache_creation_input_tokens")
    if division_sum(mapping_at(usage, "cache_creation")) == written:
        return usage
    divisions = [
        mapping_at(entry, "cache_creation") for entry in entries if _is_served_by(entry, model)
    ]
    if sum(map(division_sum, divisions)) != written:
        return usage
    division = {field: sum(count(d, field) for d in divisions) for field in DIVISION}
    return {**usage, "cache_creation": division}


def _is_served_by(entry: Entry, model: str) -> bool:
    """Whether the entry is a turn of the attempt that the top-level counts describe."""
    kind = entry.get("type")
    if kind in {"compaction", "advisor_message"}:
        return False
    named = text_at(entry, "model")
    return kind == "fallback_message" or not named or _undated(named) == _undated(model)


def _is_billed(entry: Entry) -> bool:
    return entry.get("type") != "message" or count(entry, "output_tokens") > 0


def division_sum(division: Mapping[str, Any]) -> int:
    """Return how many written tokens a `cache_creation` divides."""
    return sum(count(division, field) for field in DIVISION)


def _undated(model: str) -> str:
    return DATE_SUFFIX.sub("", model)
