"""Reads the public price list out of the package genai-prices, as plain data.

Importing that package takes a third of a second, so this is done once per version of it; the
catalogue keeps the result in the user's cache directory.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any

NANOS_PER_DOLLAR = 1_000_000_000


def read_public_list() -> dict[str, Any]:
    """Return providers, models and units of genai-prices in the catalogue's own form."""
    from importlib.metadata import version  # noqa: PLC0415 - slow, and only needed here

    from genai_prices.data import providers  # noqa: PLC0415 - a third of a second
    from genai_prices.data_units import unit_data  # noqa: PLC0415

    units = _Units(unit_data)
    return {
        "source": f"genai-prices {version('genai-prices')}",
        "ancestors": units.ancestors(),
        "price_keys": units.by_price_key,
        "providers": [_provider(provider, units) for provider in providers],
    }


class _Units:
    """The billable units and which of them are special cases of which."""

    def __init__(self, unit_data: dict[str, Any]) -> None:
        self._units = unit_data
        self.by_price_key = {unit["price_key"]: key for key, unit in unit_data.items()}

    def nanos_per_unit(self, price_key: str, dollars: Decimal) -> tuple[str, str]:
        """Return (unit, rate): $3 per million tokens are 3,000 nano-dollars per token."""
        unit = self.by_price_key[price_key]
        return unit, str(Fraction(dollars) * NANOS_PER_DOLLAR / self._units[unit]["per"])

    def ancestors(self) -> dict[str, list[str]]:
        """Return for each unit the more general ones, nearest first."""
        return {key: self._ancestors_of(key) for key in self._units}

    def _ancestors_of(self, key: str) -> list[str]:
        own = self._units[key]["dimensions"].items()
        wider = [
            (-len(unit["dimensions"]), other)
            for other, unit in self._units.items()
            if other != key and unit["dimensions"].items() <= own
        ]
        return [other for _, other in sorted(wider)]


def _provider(provider: Any, units: _Units) -> dict[str, Any]:
    return {
        "id": provider.id,
        "match": _clause(provider.model_match) if provider.model_match else None,
        "fallbacks": list(provider.fallback_model_providers or ()),
        "models": [_model(model, units) for model in provider.models],
    }


def _model(model: Any, units: _Units) -> dict[str, Any]:
    standard = model.prices if isinstance(model.prices, list) else [model]
    return {
        "id": model.id,
        "match": _clause(model.match),
        "context_window": model.context_window,
        "standard": [_row(row, units) for row in standard],
        "variants": [_row(row, units) for row in model.price_variants or ()],
    }


def _row(row: Any, units: _Units) -> dict[str, Any]:
    rates = {}
    for price_key, price in vars(row.prices).items():
        if price is not None and not price_key.startswith("_"):
            unit, rate = _rate(price_key, price, units)
            rates[unit] = rate
    constraint = getattr(row, "constraint", None)
    return {
        "rates": rates,
        "starts_at": _start(constraint),
        "daily": _daily(constraint),
        "when": sorted(getattr(row, "when", {}).items()),
    }


def _rate(price_key: str, price: Any, units: _Units) -> tuple[str, Any]:
    if isinstance(price, Decimal):
        return units.nanos_per_unit(price_key, price)
    unit, base = units.nanos_per_unit(price_key, price.base)
    tiers = [(tier.start, units.nanos_per_unit(price_key, tier.price)[1]) for tier in price.tiers]
    return unit, [base, tiers]


def _start(constraint: Any) -> int | None:
    start_date = getattr(constraint, "start_date", None)
    if start_date is None:
        return None
    return int(datetime(start_date.year, start_date.month, start_date.day, tzinfo=UTC).timestamp())


def _daily(constraint: Any) -> list[int] | None:
    if not hasattr(constraint, "start_time"):
        return None
    return [_second_of_day(constraint.start_time), _second_of_day(constraint.end_time)]


def _second_of_day(moment: time) -> int:
    offset = moment.utcoffset()
    shift = int(offset.total_seconds()) if offset else 0
    return (moment.hour * 3600 + moment.minute * 60 + moment.second - shift) % 86_400


def _clause(clause: Any) -> dict[str, Any]:
    if not is_dataclass(clause):
        raise TypeError(clause)
    name = fields(clause)[0].name
    value = getattr(clause, name)
    kind = name.rstrip("_")
    return {kind: [_clause(part) for part in value] if isinstance(value, list) else value}
