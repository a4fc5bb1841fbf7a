"""The places of a Messages API request after which it may be cached, known across requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from tuppence.caching.placement import RequestTraits
from tuppence.caching.prefix_tree import Position
from tuppence.caching.request_blocks import RequestBlocks

TOKENS_PER_BYTE = Fraction(1, 4)
"""Until the provider has told better: English prose and JSON have about four bytes a token."""


class PromptPositions:
    """Positions by model and by the digest of everything up to them.

    Of each model the `most` that were used last are kept.
    """

    def __init__(
        self, *, tokens_per_byte: Fraction = TOKENS_PER_BYTE, most: int | None = None
    ) -> None:
        self.tokens_per_byte = tokens_per_byte
        self._most = most
        self._models: dict[str, dict[bytes, Position]] = {}

    def path(self, model: str, blocks: RequestBlocks) -> list[Position]:
        """Return the positions of a request, one per block; unknown ones are not kept."""
        known = self._models.get(model, {})
        tokens, size = self.tokens_per_byte.numerator, self.tokens_per_byte.denominator
        path: list[Position] = []
        since_tokens = since_bytes = 0
        for block in blocks.blocks:
            position = known.get(block.digest)
            if position is None:
                since_bytes += block.size_bytes
                position = Position(since_tokens - (-since_bytes * tokens // size))
            else:
                since_tokens, since_bytes = position.end_tokens, 0
            path.append(position)
        return path

    def keep(self, model: str, blocks: RequestBlocks, path: Sequence[Position]) -> list[Position]:
        """Remember a request's positions, forget the oldest, and return those forgotten."""
        positions = self._models.setdefault(model, {})
        for block, position in zip(blocks.blocks, path, strict=True):
            positions.pop(block.digest, None)
            positions[block.digest] = position  # the last in the order is the one used last
        if self._most is None:
            return []
        surplus = [*islice(positions, max(0, len(positions) - self._most))]
        return [positions.pop(digest) for digest in surplus]


def static_tokens(path: Sequence[Position], blocks: RequestBlocks) -> int:
    """Return how many tokens tools and system prompt have."""
    before = sum(block.level != "messages" for block in blocks.blocks)
    return path[before - 1].end_tokens if before else 0


def traits_of(
    request: Mapping[str, Any], path: Sequence[Position], blocks: RequestBlocks
) -> RequestTraits:
    """Return what a Messages request looks like to the planner."""
    messages = request["messages"]
    last = messages[-1]
    content = last.get("content")
    kinds = {part.get("type") for part in content} if isinstance(content, list) else {"text"}
    return RequestTraits(
        has_tools=bool(request.get("tools")),
        by_person=last.get("role") == "user" and "tool_result" not in kinds,
        turns=sum(message.get("role") == "assistant" for message in messages),
        static_tokens=static_tokens(path, blocks),
    )
