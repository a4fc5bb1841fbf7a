"""Reading counts from a provider's JSON: whole numbers, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuppence.core.usage import MAX_COUNT, check_count
from tuppence.errors import InvalidUsage

NOTHING: Mapping[str, Any] = {}


def count(counts: Mapping[str, Any], field: str) -> int:
    """Return the count under field, 0 where it is absent or null."""
    value: int | None = counts.get(field)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        check_count(field, value)
    return value


def required_count(counts: Mapping[str, Any], field: str) -> int:
    """Return the count under field; without it the call would silently be free."""
    value = counts.get(field)
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return value
    if value is None:
        raise InvalidUsage(
            "is missing",
            field=field,
            value=None,
            remedy=f"pass the usage as the provider sent it; it has {sorted(counts)}",
        )
    return count(counts, field)


def mapping_at(parent: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the object under field, empty where it is absent or null."""
    value = parent.get(field)
    if value is None:
        return NOTHING
    if type(value) is dict or isinstance(value, Mapping):  # the former is ten times as fast
        return value
    raise InvalidUsage(
        "is not an object", field=field, value=value, remedy="pass the provider's JSON unchanged"
    )


def mappings_at(parent: Mapping[str, Any], field: str) -> Sequence[Mapping[str, Any]]:
    """Return the list of objects under field, empty where it is absent or null."""
    value = parent.get(field)
    if value is None:
        return ()
    if isinstance(value, Sequence) and all(
        type(item) is dict or isinstance(item, Mapping) for item in value
    ):
        return value
    raise InvalidUsage(
        "is not a list of objects",
        field=field,
        value=value,
        remedy="pass the provider's JSON unchanged",
    )


def text_at(parent: Mapping[str, Any], field: str) -> str:
    """Return the text under field, empty where it is absent or null."""
    value = parent.get(field)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise InvalidUsage(
        "is not text", field=field, value=value, remedy="pass the provider's JSON unchanged"
    )


def usage_at(response: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the usage object of a response, which must have one."""
    usage = mapping_at(response, field)
    if not usage:
        raise InvalidUsage(
            "is missing",
            field=field,
            value=response.get(field),
            remedy="pass the whole response; of a stream, the event or chunk that has the usage",
        )
    return usage


def inside(part: int, whole: int, *, part_field: str, whole_field: str) -> int:
    """Return part, which the provider counts inside whole and so cannot be more."""
    if part > whole:
        raise InvalidUsage(
            f"is more than {whole_field}={whole}, which include it",
            field=part_field,
            value=part,
            remedy="pass the provider's usage unchanged",
        )
    return part


def without(part: int, whole: int, *, part_field: str, whole_field: str) -> int:
    """Return what remains of whole without a part that the provider counts inside it."""
    return whole - inside(part, whole, part_field=part_field, whole_field=whole_field)
