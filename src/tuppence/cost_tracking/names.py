"""The texts of a call: refused where a database cannot hold them or the ledger not read them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from tuppence.core.attribution import MAX_NAME_LENGTH, Attribution, check_name
from tuppence.core.usage import Terms
from tuppence.errors import InvalidInput

MAX_PROVIDER_LENGTH = 64
SEPARATORS = frozenset(";=")
"""What separates names in the texts of terms and other units."""


def check_names(
    attribution: Attribution, provider: str | None, model: str, terms: Terms, units: tuple[str, ...]
) -> None:
    """Raise InvalidInput for a text that is unusable; looked at once for calls that share them."""
    try:
        _check_once(attribution, provider, model, terms, units)
    except TypeError:  # what is no text may not be hashable either
        _check_once.__wrapped__(attribution, provider, model, terms, units)


@lru_cache(maxsize=4096)
def _check_once(
    attribution: Attribution, provider: str | None, model: str, terms: Terms, units: tuple[str, ...]
) -> None:
    attribution.check()
    _check("model", [model])
    _check("provider", [] if provider is None else [provider], most=MAX_PROVIDER_LENGTH)
    _check("terms", filter(None, terms), most=MAX_PROVIDER_LENGTH, unusable=SEPARATORS)
    _check("other_units", units, most=MAX_PROVIDER_LENGTH, unusable=SEPARATORS)


def _check(
    field: str,
    names: Iterable[str],
    *,
    most: int = MAX_NAME_LENGTH,
    unusable: frozenset[str] = frozenset(),
) -> None:
    excluded = " ".join(("NUL", *sorted(unusable)))
    for name in names:
        check_name(field, name)
        if not name or unusable.intersection(name) or len(name) > most:
            raise _unusable(field, name, f"give text of 1 to {most} characters without {excluded}")


def _unusable(field: str, name: str, remedy: str) -> InvalidInput:
    return InvalidInput("is not a usable name", field=field, value=name, remedy=remedy)
