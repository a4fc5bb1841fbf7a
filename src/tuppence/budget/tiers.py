"""Which model a throttler suggests instead: one that is cheaper and still exists."""

from __future__ import annotations

from functools import lru_cache

from tuppence.prices.model_facts import family_of, load_tiers


@lru_cache(maxsize=1_000)
def suggested_model(preset: str, model: str | None = None) -> str:
    """Return the tier below a model, or the cheapest one where the model is not told or known.

    Raises InvalidInput for tiers that there are not.
    """
    tiers = load_tiers(preset)
    family = None if model is None else family_of(model)
    below = [] if family is None else [one for one in tiers if one.family.rank < family.rank]
    return (below[-1] if below else tiers[0]).model
