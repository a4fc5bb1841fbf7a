"""What the stand-in knows of models: which there are, how much they take, what they cache."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuppence.prices.model_facts import cacheable_minimum

MODELS_PATH = Path(__file__).parent / "models.toml"
MOST_OUTPUT_TOKENS = 128_000


class Models:
    """The models of the stand-in; the caller's numbers go before those of the data."""

    def __init__(
        self,
        minimum_tokens: Mapping[str, int] | None = None,
        context_windows: Mapping[str, int] | None = None,
    ) -> None:
        self._minimum_tokens = minimum_tokens or {}
        self._windows = {**_listed_windows(), **(context_windows or {})}

    def __contains__(self, model: object) -> bool:
        return model in self._windows

    def context_window(self, model: str) -> int:
        """Return the most tokens that a prompt of this model may have."""
        return self._windows[model]

    def minimum_cacheable(self, model: str) -> int:
        """Return the tokens below which a marker does nothing."""
        if model in self._minimum_tokens:
            return self._minimum_tokens[model]
        known = cacheable_minimum(model)
        return known.tokens if known else 0

    def listing(self) -> dict[str, Any]:
        """Return the body of GET /v1/models."""
        rows = [self._row(model) for model in self._windows]
        return {
            "data": rows,
            "has_more": False,
            "first_id": rows[0]["id"],
            "last_id": rows[-1]["id"],
        }

    def _row(self, model: str) -> dict[str, Any]:
        return {
            "type": "model",
            "id": model,
            "display_name": model.replace("-", " ").title(),
            "created_at": "1970-01-01T00:00:00Z",  # what the provider says of unknown dates
            "lifecycle": "active",
            "max_input_tokens": self._windows[model],
            "max_tokens": MOST_OUTPUT_TOKENS,
        }


def _listed_windows() -> dict[str, int]:
    groups = tomllib.loads(MODELS_PATH.read_text(encoding="utf-8"))["model"]
    return {model: group["context_window"] for group in groups for model in group["ids"]}
