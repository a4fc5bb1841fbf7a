"""What requests have in common: a tree of prefixes, one node per run of blocks.

A prompt cache works on prefixes: two requests share what they begin with, and nothing else. Traces
name the blocks of a request by ids that follow each other, so a prefix of thousands of blocks is a
few runs `(first, count)`; the tree keeps runs and splits one where two requests part. Work and
memory grow with the number of runs, not of blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

from tuppence.caching.reuse import Use


class Position:
    """A place in a prompt after which it may be cached, with what is known of its use so far."""

    __slots__ = ("end_tokens", "ends_request", "last_use", "uses")

    def __init__(self, end_tokens: int) -> None:
        self.end_tokens = end_tokens
        """Tokens of the prompt up to here."""
        self.uses = 0
        """Requests that began with everything up to here."""
        self.last_use: Use | None = None
        self.ends_request = False
        """A request ended here: one that goes on after it continues a conversation."""


class PrefixNode(Position):
    """The end of a run of blocks under everything that comes before it."""

    __slots__ = ("children", "count", "end_blocks", "first", "parent")

    def __init__(
        self, first: int, count: int, parent: PrefixNode | None, tokens_per_block: int
    ) -> None:
        self.end_blocks: int = count if parent is None else parent.end_blocks + count
        super().__init__(self.end_blocks * tokens_per_block)
        self.first = first
        self.count = count
        self.parent = parent
        self.children: dict[int, PrefixNode] = {}


class PrefixTree:
    """All prefixes that were seen of one model's requests."""

    def __init__(self, tokens_per_block: int) -> None:
        self._tokens_per_block = tokens_per_block
        self._root = PrefixNode(0, 0, None, tokens_per_block)

    def path(
        self, runs: Iterable[tuple[int, int]], boundaries: Iterable[int] = ()
    ) -> list[PrefixNode]:
        """Return the nodes of a request, the shortest prefix first, and add those that are new.

        There is a node after each run, where earlier requests parted from this one, and after as
        many blocks as each of `boundaries` says.
        """
        node, path = self._root, []
        for first, count in runs:
            start, left = first, count
            while left:
                child = node.children.get(start)
                if child is None:
                    child = PrefixNode(start, left, node, self._tokens_per_block)
                    node.children[start] = child
                elif child.count > left:
                    child = self._split(child, left)
                path.append(child)
                node = child
                start += child.count
                left -= child.count
        for blocks in boundaries:
            self._cut(path, blocks)
        return path

    def _cut(self, path: list[PrefixNode], blocks: int) -> None:
        """Make the path have a node after this many blocks, where it is that long."""
        for index, node in enumerate(path):
            if node.end_blocks >= blocks:
                before = blocks - (node.end_blocks - node.count)
                if 0 < before < node.count:
                    path.insert(index, self._split(node, before))
                return

    def _split(self, lower: PrefixNode, count: int) -> PrefixNode:
        """Put a node after the first blocks of a run; what was known of the run holds for both."""
        assert lower.parent is not None  # noqa: S101 - only the root has none, and it has no run
        upper = PrefixNode(lower.first, count, lower.parent, self._tokens_per_block)
        upper.uses, upper.last_use = lower.uses, lower.last_use
        lower.parent.children[lower.first] = upper
        lower.first += count
        lower.count -= count
        lower.parent = upper
        upper.children[lower.first] = lower
        return upper
