"""Puts the price book together: public list, corrections, and a cache that makes it quick to open.

The list is data of the package genai-prices; `data/price_overlay.toml` holds what it lacks or has
wrong. Both are turned once into one JSON file in the user's cache directory, named after their
sizes and times, so that a new version of either is picked up by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from tuppence.core.price_book import (
    Correction,
    ListedModel,
    ListRow,
    PriceBook,
    PriceList,
    TermsRule,
)
from tuppence.core.prices import Rates, TieredRate
from tuppence.errors import InvalidPrice
from tuppence.prices.public_list import NANOS_PER_DOLLAR, read_public_list
from tuppence.settings import load_settings

OVERLAY_PATH = Path(__file__).parent.parent / "data" / "price_overlay.toml"
CACHE_FORMAT = 1
MAX_DOLLARS = 1_000_000_000
MAX_DIGITS = 40
"""What the ledger's column holds of a price."""


def load_price_book(cache_directory: Path | None = None) -> PriceBook:
    """Return the book of public prices with our corrections, from the cache where it is fresh."""
    directory = cache_directory or load_settings().cache_directory
    return _book(_cached_data(directory / f"prices-{_fingerprint()}.json"))


def rate_from_dollars(price_key: str, dollars: object, *, field: str) -> Fraction:
    """Return nano-dollars per unit for dollars per million (or thousand); refuse what is no price.

    Raises InvalidPrice for anything but a finite number of 0 or more.
    """
    try:
        amount = Decimal(str(dollars))
    except InvalidOperation:
        amount = Decimal(-1)
    # The bounds come before the fraction: 1e-999999999 would take minutes to write out.
    if (
        not amount.is_finite()
        or not 0 <= amount <= MAX_DOLLARS
        or (amount and amount.adjusted() < -MAX_DIGITS)
        or len(str(dollars)) > MAX_DIGITS
    ):
        raise InvalidPrice(
            "is not a price",
            field=field,
            value=dollars,
            remedy=f"give dollars from 0 to {MAX_DOLLARS:,}, as 2.50",
        )
    return Fraction(amount) * NANOS_PER_DOLLAR / units_per_price(price_key)


def units_per_price(price_key: str) -> int:
    """Return how many units a price key speaks of: "_mtok" a million, "_kcount" a thousand."""
    for ending, count in _PER.items():
        if price_key.endswith(ending):
            return count
    raise InvalidPrice(
        "is not a known kind of price",
        field="price",
        value=price_key,
        remedy=f"use a name that ends in one of {', '.join(_PER)}",
    )


_PER = {
    "_mtok": 10**6,
    "_mchars": 10**6,
    "_kcount": 10**3,
    "_kpages": 10**3,
    "_gpixels": 10**9,
    "_hours": 3600,
}


def _fingerprint() -> str:
    """Return a name for the exact data: sizes and times of the list and of our overlay."""
    spec = find_spec("genai_prices")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("genai_prices", name="genai_prices")
    digest = hashlib.blake2b(digest_size=8)
    for path in (Path(spec.origin).with_name("data.py"), OVERLAY_PATH):
        status = path.stat()
        digest.update(f"{CACHE_FORMAT} {path} {status.st_size} {status.st_mtime_ns};".encode())
    return digest.hexdigest()


def _cached_data(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        cached: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        return cached
    content = msgspec.json.encode(read_public_list() | {"overlay": _read_overlay()})
    with contextlib.suppress(OSError):  # a read-only home costs time at each start, nothing else
        _write_whole(path, content)
    data: dict[str, Any] = msgspec.json.decode(content)
    return data


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).replace(path)


def _read_overlay() -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only needed when the cache is stale

    with OVERLAY_PATH.open("rb") as file:
        return tomllib.load(file)


def _book(data: Mapping[str, Any]) -> PriceBook:
    overlay = data["overlay"]
    listed = PriceList(
        models=_Shelves(data["providers"], overlay, data["price_keys"]),
        provider_matches=[
            *((row["provider"], row["match"]) for row in overlay.get("provider_match", ())),
            *((p["id"], p["match"]) for p in data["providers"] if p["match"]),
        ],
        provider_fallbacks={p["id"]: p["fallbacks"] for p in data["providers"] if p["fallbacks"]},
        aliases={row["name"]: row["model"] for row in overlay.get("alias", ())},
        rules=[_rule(row) for row in overlay.get("rule", ())],
        ancestors={unit: tuple(chain) for unit, chain in data["ancestors"].items()},
        price_keys=data["price_keys"],
        source=data["source"],
    )
    return PriceBook(listed)


class _Shelves(Mapping[str, Sequence[ListedModel]]):
    """The models by provider; a provider's rows are read when it is first asked for."""

    def __init__(
        self,
        providers: Sequence[Mapping[str, Any]],
        overlay: Mapping[str, Any],
        price_keys: Mapping[str, str],
    ) -> None:
        self._raw = {provider["id"]: provider["models"] for provider in providers}
        self._overlay = overlay
        self._price_keys = price_keys
        self._read: dict[str, Sequence[ListedModel]] = {}

    def __getitem__(self, provider: str) -> Sequence[ListedModel]:
        if provider not in self._read:
            self._read[provider] = list(self._models(provider))
        return self._read[provider]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def _models(self, provider: str) -> Iterator[ListedModel]:
        listed = self._raw[provider]
        for row in self._overlay_rows("model", provider):
            rates = self._overlay_rates(row)
            own = Correction(rates, f"overlay: {row['source']}")
            match = {"regex": f"^{row['model']}(-\\d{{8}})?$"}
            yield ListedModel(provider, row["model"], match, corrections=(own,))
        for model in listed:
            yield ListedModel(
                provider,
                model["id"],
                model["match"],
                standard=_standard_rows(model),
                variants=tuple(_row(row) for row in model["variants"]),
                corrections=tuple(
                    Correction(
                        self._overlay_rates(row),
                        f"overlay: {row['source']}",
                        starts_at_seconds=_seconds(row.get("from")),
                        ends_at_seconds=_seconds(row.get("until")),
                    )
                    for row in self._overlay_rows("correction", provider)
                    if row["model"] == model["id"]
                ),
                context_window=model["context_window"],
            )

    def _overlay_rows(self, kind: str, provider: str) -> list[Mapping[str, Any]]:
        return [row for row in self._overlay.get(kind, ()) if row["provider"] == provider]

    def _overlay_rates(self, row: Mapping[str, Any]) -> Rates:
        return {
            self._price_keys[key]: _overlay_rate(key, value)
            for key, value in row.items()
            if key in self._price_keys
        }


def _standard_rows(model: Mapping[str, Any]) -> tuple[ListRow, ...]:
    rows = tuple(_row(row) for row in model["standard"])
    if model["id"].endswith(":free") and not any(row.rates for row in rows):
        return (
            ListRow({unit: TieredRate(Fraction(0)) for unit in ("input_tokens", "output_tokens")}),
        )
    return rows


def _row(row: Mapping[str, Any]) -> ListRow:
    daily = row["daily"]
    return ListRow(
        {unit: _rate(rate) for unit, rate in row["rates"].items()},
        starts_at_seconds=row["starts_at"],
        daily_seconds=(daily[0], daily[1]) if daily else None,
        when=tuple((name, value) for name, value in row["when"]),
    )


def _rate(rate: Any) -> TieredRate:
    if isinstance(rate, str):
        return TieredRate(Fraction(rate))
    base, tiers = rate
    return TieredRate(Fraction(base), tuple((above, Fraction(tier)) for above, tier in tiers))


def _overlay_rate(price_key: str, value: Any) -> TieredRate:
    if not isinstance(value, Mapping):
        return TieredRate(rate_from_dollars(price_key, value, field=price_key))
    tiers = sorted((int(above), price) for above, price in value["above"].items())
    return TieredRate(
        rate_from_dollars(price_key, value["base"], field=price_key),
        tuple(
            (above, rate_from_dollars(price_key, price, field=price_key)) for above, price in tiers
        ),
    )


def _rule(row: Mapping[str, Any]) -> TermsRule:
    return TermsRule(
        provider=row["provider"],
        term=row["term"],
        value=row["value"],
        multiplier=Fraction(row["multiplier"]),
        source=row["source"],
        model_match=row.get("models"),
    )


def _seconds(day: date | str | None) -> int | None:
    if day is None:
        return None
    start = date.fromisoformat(day) if isinstance(day, str) else day
    return int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
