"""Reads upstreams from a TOML file: docs/reference/gateway.md describes it."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tuppence.entrypoints.gateway.upstream import BASE_URLS, Upstream, root_of
from tuppence.entrypoints.gateway.upstreams import Alias, Upstreams
from tuppence.errors import InvalidInput
from tuppence.governing.steps import AUTO
from tuppence.settings import environment_value

MOST_RETRIES = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""It is sent in a header."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_FIELD = "api_key_env"
_NOT_SHOWN = "(not shown: it may be a key)"


class _Field(NamedTuple):
    """What may stand in a field, as code and in words."""

    is_valid: Callable[[Any], bool]
    remedy: str


def _is_number_above_zero(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(one) for one in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.query or parts.fragment)
        )
    except ValueError:  # of a port or an address that is none
        return False


_NUMBER = _Field(_is_number_above_zero, "give a number above 0")
_NAMES = _Field(_is_list_of_names, "give a list of names, or leave it out")
_UPSTREAM_FIELDS: Mapping[str, _Field] = {
    "name": _Field(
        lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None,
        "give a name of letters, digits, dots, dashes and underscores",
    ),
    "provider": _Field(
        lambda value: isinstance(value, str) and value in BASE_URLS,
        f"name whose API it speaks: {' or '.join(BASE_URLS)}",
    ),
    "base_url": _Field(_is_url, "give a URL as https://api.example.com"),
    _KEY_FIELD: _Field(
        lambda value: isinstance(value, str) and _VARIABLE.fullmatch(value) is not None,
        "name the environment variable that has its key",
    ),
    "models": _NAMES,
    "weight": _NUMBER,
    "order": _Field(lambda value: type(value) is int, "give a whole number; lower ones are first"),
    "connect_timeout_seconds": _NUMBER,
    "timeout_seconds": _NUMBER,
    "retries": _Field(
        lambda value: type(value) is int and 0 <= value <= MOST_RETRIES,
        f"give a whole number from 0 to {MOST_RETRIES}",
    ),
}
_ALIAS_FIELDS: Mapping[str, _Field] = {
    "model": _Field(_is_text, "name the model that is asked"),
    "upstreams": _NAMES,
}


def read_upstreams(
    path: Path, *, needs_key: bool, environment: Mapping[str, str] | None = None
) -> Upstreams:
    """Return the upstreams of a file. Raises InvalidInput for what cannot be used in it.

    `needs_key`: clients have keys of the gateway, which must not be sent on, so each upstream needs
    a key of its own.
    """
    document = _document(path)
    _check_keys(document, ("upstream", "models"), "")
    rows, names = document.get("upstream", []), document.get("models", {})
    if not _is_list_of_tables(rows):
        raise _invalid("upstream", rows, "is no list of tables", "add [[upstream]]")
    if not isinstance(names, dict):
        raise _invalid("models", names, "is no table", "write [models.NAME]")
    upstreams: dict[str, Upstream] = {}
    for index, row in enumerate(rows):
        upstream = _upstream(row, index, needs_key=needs_key, environment=environment)
        if upstream.name in upstreams:
            raise _invalid("upstream.name", upstream.name, "is there twice", "rename one of them")
        upstreams[upstream.name] = upstream
    return Upstreams(upstreams.values(), [_alias(name, names, upstreams) for name in names])


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise _invalid("upstreams", str(path), problem, "name a file that is there") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise _invalid("upstreams", str(path), f"is no TOML: {error}", "correct it") from error


def _upstream(
    row: Mapping[str, Any], index: int, *, needs_key: bool, environment: Mapping[str, str] | None
) -> Upstream:
    where = f"upstream[{index}]."
    _check(row, _UPSTREAM_FIELDS, ("name", "provider"), where)
    where = f"upstream.{row['name']}."
    fields = {name: value for name, value in row.items() if name != _KEY_FIELD}
    fields["base_url"] = root_of(row.get("base_url", BASE_URLS[row["provider"]]))
    fields["setting"] = f"{where}base_url"
    fields["models"] = tuple(row.get("models", ()))
    api_key_env = row.get(_KEY_FIELD)
    if api_key_env is None and needs_key:
        problem = "is missing: the gateway would send its own clients' keys on"
        remedy = "name the environment variable that has its key, or serve with --no-keys"
        raise _invalid(f"{where}{_KEY_FIELD}", None, problem, remedy)
    if api_key_env is not None:
        fields["api_key"] = environment_value(api_key_env, environment)
        if fields["api_key"] is None:
            problem = "is no environment variable that is set"
            remedy = f"set {api_key_env} to the key of this upstream"
            raise _invalid(f"{where}{_KEY_FIELD}", api_key_env, problem, remedy)
    return Upstream(**fields)


def _alias(name: str, names: Mapping[str, Any], upstreams: Mapping[str, Upstream]) -> Alias:
    where = f"models.{name}."
    row = names[name]
    if not isinstance(row, dict):
        raise _invalid(f"models.{name}", row, "is no table", f"write [models.{name}]")
    _check(row, _ALIAS_FIELDS, ("model",), where)
    model = row["model"]
    if model != name and model in names:
        problem = "is itself a name of the gateway's own"
        raise _invalid(f"{where}model", model, problem, "name the model itself")
    chosen = tuple(row.get("upstreams", ()))
    for one in chosen:
        if one not in upstreams:
            remedy = f"choose from {', '.join(upstreams)}"
            raise _invalid(f"{where}upstreams", one, "is no upstream", remedy)
        if model != AUTO and not upstreams[one].serves(model):
            problem = f"does not serve {model}"
            raise _invalid(f"{where}upstreams", one, problem, "add the model to its models")
    if len(set(chosen)) < len(chosen):
        raise _invalid(f"{where}upstreams", chosen, "names one twice", "name each once")
    return Alias(name, model, chosen)


def _check(
    row: Mapping[str, Any], fields: Mapping[str, _Field], required: tuple[str, ...], where: str
) -> None:
    _check_keys(row, fields, where)
    for name in required:
        if name not in row:
            raise _invalid(where + name, None, "is missing", fields[name].remedy)
    for name, value in row.items():
        if not fields[name].is_valid(value):
            shown = _NOT_SHOWN if name == _KEY_FIELD else value
            raise _invalid(where + name, shown, "cannot be used", fields[name].remedy)


def _check_keys(
    row: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], where: str
) -> None:
    for name in row:
        if name not in known:
            remedy = f"there are {', '.join(known)}"
            # Not its value: that may be a key.
            raise _invalid(where + name, name, "is no field here", remedy)


def _is_list_of_tables(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def _invalid(field: str, value: object, problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(problem, field=field, value=value, remedy=remedy)
