"""What is known about models beside their prices: families, tiers, tokenizers, cache minimums.

All of it is data with sources, in model_facts.toml.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tuppence.errors import InvalidInput

FACTS_PATH = Path(__file__).parent / "model_facts.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A line of models of one size."""

    rank: int
    """0 is the weakest."""
    name: str
    phrase: str
    """A model of this family, as a sentence says it: "a Sonnet model"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A model to move calls to, and the family that it stands for."""

    family: Family
    model: str


Tiers = tuple[Tier, ...]
"""The weakest first."""


def load_tiers(preset: str = "default") -> Tiers:
    """Return the tiers of a preset; raise InvalidInput for one that there is not."""
    rows = {row["preset"]: row["models"] for row in _facts()["tiers"]}
    if preset not in rows:
        raise InvalidInput(
            "is not a set of tiers",
            field="tiers",
            value=preset,
            remedy=f"choose one of {', '.join(rows)}",
        )
    return tiers_of(rows[preset])


def tiers_of(models: list[str]) -> Tiers:
    """Return tiers made of these models, the weakest first, whatever order they are given in."""
    if not models:
        raise InvalidInput(
            "names no model", field="tiers", value=models, remedy="name one model or more"
        )
    tiers = []
    for model in models:
        family = family_of(model)
        if family is None:
            raise InvalidInput(
                "is of no known family",
                field="tiers",
                value=model,
                remedy=f"name models of {', '.join(row['name'] for row in _facts()['family'])}",
            )
        tiers.append(Tier(family=family, model=model))
    return tuple(sorted(tiers, key=lambda tier: tier.family.rank))


def family_of(model: str) -> Family | None:
    """Return the family that a model's name tells, None for models of other makers."""
    name = plain_name(model)
    if "claude" not in name:
        return None
    for rank, row in enumerate(_facts()["family"]):
        if row["contains"] in name:
            return Family(rank=rank, name=row["name"], phrase=row["phrase"])
    return None


def token_growth(source: str, target: str) -> Fraction | None:
    """Return by what to multiply tokens of one model to have those of another for the same text.

    Never less than 1, so that no saving rests on a tokenizer; None where one is not known.
    """
    before, after = _first("tokenizer", source), _first("tokenizer", target)
    if before is None or after is None:
        return None
    return max(Fraction(1), Fraction(after["tokens_percent"], before["tokens_percent"]))


class CacheableMinimum(NamedTuple):
    """The smallest prefix that a model caches."""

    tokens: int
    is_known: bool
    """False where it is not documented and the next larger known size is taken."""


def cacheable_minimum(model: str) -> CacheableMinimum | None:
    """Return the smallest prefix that a model caches; None for makers of whom nothing is known."""
    row = _first("cacheable", model)
    if row is None:
        return None
    return CacheableMinimum(int(row["minimum_tokens"]), not row.get("assumed", False))


def plain_name(model: str) -> str:
    """Return a name as the facts are written: lower case, "-" for "."."""
    return model.lower().replace(".", "-")


def _first(table: str, model: str) -> dict[str, Any] | None:
    name = plain_name(model)
    rows = _facts()[table]
    return next((row for row in rows if any(part in name for part in row["contains"])), None)


@cache
def _facts() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(FACTS_PATH.read_text(encoding="utf-8"))
