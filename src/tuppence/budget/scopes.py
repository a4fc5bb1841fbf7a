"""Whom a call is charged to, as the scopes whose budgets cover it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, TypedDict

from tuppence.core.attribution import check_name
from tuppence.cost_tracking.budgets import DEFAULT_ORGANISATION, ENTITY_TYPES, Scope
from tuppence.errors import InvalidInput

DEFAULT_THROTTLER = "default"
"""The name of throttlers that are given none: they share one budget."""


class Payer(TypedDict, total=False):
    """Who pays for a call; what is left out has no budget of its own."""

    organisation_id: str
    team_id: str
    project_id: str
    user_id: str
    session_id: str
    agent_id: str
    tags: tuple[str, ...]


_FIELDS = {f"{kind}_id": kind for kind in ENTITY_TYPES if kind not in ("tag", "throttler")}


def scopes_of(payer: Payer, throttler: str | None = None) -> tuple[Scope, ...]:
    """Return the scopes that a call falls under; raise InvalidInput for an unusable name."""
    return _scopes(tuple(sorted(payer.items(), key=str)), throttler)


@lru_cache(maxsize=10_000)
def _scopes(payer: tuple[tuple[str, Any], ...], throttler: str | None) -> tuple[Scope, ...]:
    names = {"organisation_id": DEFAULT_ORGANISATION, **dict(payer)}
    scopes: list[Scope] = [] if throttler is None else [("throttler", throttler)]
    for tag in names.pop("tags", ()):
        check_name("tags", tag)
        scopes.append(("tag", tag))
    for field, name in names.items():
        if field not in _FIELDS:
            raise InvalidInput(
                "is not something that a budget is for",
                field=field,
                value=name,
                remedy=f"give one of {', '.join(_FIELDS)}, tags",
            )
        check_name(field, name)
        if name:
            scopes.append((_FIELDS[field], name))
    return tuple(scopes)


@lru_cache(maxsize=10_000)
def encode_scopes(scopes: tuple[Scope, ...]) -> str:
    """Return scopes as they are kept with a hold."""
    return json.dumps(scopes, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=10_000)
def decode_scopes(text: str) -> tuple[Scope, ...]:
    """Return scopes that were kept."""
    return tuple((kind, name) for kind, name, *_ in json.loads(text))
