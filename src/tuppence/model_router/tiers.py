"""The models that a router chooses from: a preset, or a file of the user's.

The file is TOML, one `[[model]]` a model:

    [[model]]
    id = "claude-haiku-5-5"
    tier = "weak"                  # weak, middle or strong
    context_window = 200_000       # tokens; by default what the price list says
    tools = true
    images = true
    languages = ["en", "zh"]       # by default all
    capabilities = ["json"]        # names of your own, asked for with requires=
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tuppence.core.price_book import PriceBook
from tuppence.errors import InvalidInput
from tuppence.language import Translate, mark
from tuppence.model_router.request import LATIN, SCRIPTS, ReadRequest
from tuppence.prices.model_facts import load_tiers

LANGUAGES_OF_SCRIPTS = frozenset(language for _, _, language in SCRIPTS)
"""None of them is written in Latin letters."""
TIERS = ("weak", "middle", "strong")
_FLAGS = ("tools", "images")
_LISTS = ("languages", "capabilities")
_FIELDS = ("id", "tier", "context_window", *_FLAGS, *_LISTS)


class Lack(NamedTuple):
    """Why a model cannot take a request."""

    text: str
    """In English, marked for translation, with places for the values."""
    values: Mapping[str, object]

    def told(self, translate: Translate = mark) -> str:
        """Return it in a language, English by default."""
        return translate(self.text).format(**self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedModel:
    """A model, what it can do, and which tier it stands for."""

    id: str
    tier: int
    """Index into `TIERS`."""
    context_window: int | None = None
    """Tokens of input and output together; None where it is not known."""
    tools: bool = True
    images: bool = True
    languages: frozenset[str] = frozenset()
    """Empty: all."""
    capabilities: frozenset[str] = frozenset()

    def lacks(self, request: ReadRequest, tokens: int, requires: frozenset[str]) -> Lack | None:
        """Return why a request of so many input tokens cannot go to this model, else None."""
        needed = tokens + (request.max_tokens or 0)
        if self.context_window is not None and needed > self.context_window:
            return Lack(
                mark("context window of {window} tokens, needed are {needed}"),
                {"window": f"{self.context_window:,}", "needed": f"{needed:,}"},
            )
        if request.has_tools and not self.tools:
            return Lack(mark("no tools"), {})
        if request.has_images and not self.images:
            return Lack(mark("no images"), {})
        if not self._reads(request.language):
            text = mark("no Latin letters") if request.language == LATIN else mark("no {names}")
            return Lack(text, {"names": request.language})
        missing = sorted(requires - self.capabilities)
        return Lack(mark("no {names}"), {"names": ", ".join(missing)}) if missing else None

    def _reads(self, language: str) -> bool:
        """Tell whether it speaks a language; of Latin letters, any that is written in them."""
        if not self.languages or not language or language in self.languages:
            return True
        return language == LATIN and not self.languages <= LANGUAGES_OF_SCRIPTS


def load_models(tiers: str | Path, book: PriceBook) -> tuple[RoutedModel, ...]:
    """Return the models of a preset ("default", "chapter-12") or of a TOML file.

    Raises InvalidInput for a preset that there is not and a file that cannot be used.
    """
    if not isinstance(tiers, str | Path):
        raise _invalid(tiers, "is neither the name of a preset nor a file")
    if isinstance(tiers, Path) or tiers.endswith(".toml"):
        return _models_of_file(Path(tiers), book)
    models = load_tiers(tiers)
    return tuple(
        RoutedModel(id=one.model, tier=tier, context_window=_context_window(book, one.model))
        for tier, one in enumerate(models)
    )


def _models_of_file(path: Path, book: PriceBook) -> tuple[RoutedModel, ...]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise _invalid(path, f"is no TOML: {error}") from error
    rows = document.get("model")
    if not isinstance(rows, list) or not rows:
        raise _invalid(path, "has no [[model]]")
    models = tuple(_model(row, path, book) for row in rows)
    if len({model.id for model in models}) < len(models):
        raise _invalid(path, "names a model twice")
    return models


def _model(row: Mapping[str, Any], path: Path, book: PriceBook) -> RoutedModel:
    unknown = sorted(row.keys() - set(_FIELDS))
    if unknown:
        raise _invalid(path, f"has unknown fields: {', '.join(unknown)}")
    name, tier = row.get("id"), row.get("tier")
    if not isinstance(name, str) or not name:
        raise _invalid(path, "has a model without an id")
    if tier not in TIERS:
        raise _invalid(path, f"gives {name} the tier {tier!r}, which is none of {', '.join(TIERS)}")
    window = row.get("context_window", _context_window(book, name))
    if window is not None and (type(window) is not int or window <= 0):
        raise _invalid(path, f"gives {name} the context_window {window!r}, which is no number")
    for field in _FLAGS:
        if not isinstance(row.get(field, True), bool):
            raise _invalid(path, f"gives {name} a value for {field} that is not true or false")
    return RoutedModel(
        id=name,
        tier=TIERS.index(tier),
        context_window=window,
        tools=row.get("tools", True),
        images=row.get("images", True),
        languages=_names(row, "languages", path),
        capabilities=_names(row, "capabilities", path),
    )


def _names(row: Mapping[str, Any], field: str, path: Path) -> frozenset[str]:
    names: Sequence[Any] = row.get(field, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid(path, f"gives {row['id']} {field} that are no list of names")
    return frozenset(names)


def _context_window(book: PriceBook, model: str) -> int | None:
    timeline = book.timeline(model)
    return timeline.listed.context_window if timeline else None


def _invalid(path: object, problem: str) -> InvalidInput:
    return InvalidInput(
        problem,
        field="tiers",
        value=str(path) if isinstance(path, Path) else path,
        remedy="name a preset, or a TOML file as docs/reference/router.md shows",
    )
