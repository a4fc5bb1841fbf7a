"""Audio, image and video tokens, taken out of the plain classes without counting them twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuppence.providers.counts import without

MODALITIES = ("audio", "image", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusivePrompt:
    """The input of one call as OpenAI and Gemini count it: everything is inside `total`."""

    total: int
    cached: int = 0
    written: int = 0
    by_modality: Mapping[str, int] = field(default_factory=dict)
    """Tokens by modality, cached ones included."""
    cached_by_modality: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DisjointPrompt:
    """The same input in classes that do not overlap; `units` are those of `Usage.other_units`."""

    plain: int
    cached: int
    units: dict[str, int]


def split_prompt(prompt: InclusivePrompt) -> DisjointPrompt:
    """Return the prompt in disjoint classes.

    Where the provider does not say how much of a modality was cached, it is taken as uncached, as
    far as the uncached tokens reach: 1,000 prompt tokens of which 900 are audio and 800 are cached
    hold at least 700 cached audio tokens.
    """
    uncached = without(
        prompt.cached + prompt.written,
        prompt.total,
        part_field="cached and written tokens",
        whole_field="prompt tokens",
    )
    read = {m: n for m in MODALITIES if (n := prompt.cached_by_modality.get(m, 0))}
    fresh = {m: _fresh(prompt, m) for m in MODALITIES if prompt.by_modality.get(m)}
    read_text = _without_modalities(prompt.cached, read, "cached tokens")
    excess = max(0, sum(fresh.values()) - uncached)
    for modality, tokens in fresh.items():
        moved = min(excess, tokens, read_text)
        written = min(excess - moved, tokens - moved, prompt.written)  # counted as written already
        fresh[modality] = tokens - moved - written
        read[modality] = read.get(modality, 0) + moved
        read_text -= moved
        excess -= moved + written
    plain = _without_modalities(uncached, fresh, "prompt tokens")
    units = {f"input_{m}_tokens": n for m, n in fresh.items()}
    units |= {f"cache_{m}_read_tokens": n for m, n in read.items()}
    return DisjointPrompt(plain, read_text, units)


def split_plain(
    direction: str, total: int, by_modality: Mapping[str, int]
) -> tuple[int, dict[str, int]]:
    """Return the text tokens of an uncached total, and its other modalities as units."""
    if not by_modality:
        return total, {}
    present = {m: n for m in MODALITIES if (n := by_modality.get(m, 0))}
    text = _without_modalities(total, present, f"{direction} tokens")
    return text, {f"{direction}_{m}_tokens": n for m, n in present.items()}


def added(*units: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of the same unit over several mappings."""
    names = dict.fromkeys(name for mapping in units for name in mapping)
    return {name: sum(mapping.get(name, 0) for mapping in units) for name in names}


def _fresh(prompt: InclusivePrompt, modality: str) -> int:
    return without(
        prompt.cached_by_modality.get(modality, 0),
        prompt.by_modality[modality],
        part_field=f"cached {modality} tokens",
        whole_field=f"{modality} tokens of the prompt",
    )


def _without_modalities(total: int, tokens: Mapping[str, int], whole_field: str) -> int:
    named = " and ".join(tokens)
    return without(
        sum(tokens.values()), total, part_field=f"{named} tokens", whole_field=whole_field
    )
