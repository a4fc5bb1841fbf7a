"""Requests as plain JSON: callers put objects of the provider's package into their messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.providers.response import CONVERSIONS, as_mapping

LISTS = ("tools", "system", "messages")


def plain_request(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a Messages request made of dictionaries and lists only.

    Objects of the provider's package (`response.content` as the next message's content) and tuples
    are converted, into new objects; what is plain already is shared. Anything else stays as it is.
    """
    changed = {
        name: plain
        for name in LISTS
        if (plain := _plain_list(request.get(name))) is not request.get(name)
    }
    return {**request, **changed} if changed else request


def _plain_list(parts: Any) -> Any:
    """Return a list with plain parts: the same one where nothing had to be converted."""
    if not isinstance(parts, list | tuple):
        return parts
    plain = [_plain(part) for part in parts]
    same = isinstance(parts, list) and all(a is b for a, b in zip(plain, parts, strict=True))
    return parts if same else plain


def _plain(part: Any) -> Any:
    if not isinstance(part, dict):
        if not any(hasattr(part, name) for name in CONVERSIONS):
            return part
        part = dict(as_mapping(part))
    content = part.get("content")
    if content is None or isinstance(content, str):
        return part
    plain = _plain_list(content)
    return part if plain is content else {**part, "content": plain}
