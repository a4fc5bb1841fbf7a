"""The tree of prefixes: the same as comparing block by block, only quicker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuppence.caching.prefix_tree import PrefixTree
from tuppence.caching.reuse import Use
from tuppence.caching.traces import runs_of

BLOCKS = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def _common(left: list[int], right: list[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


@given(prompts=st.lists(BLOCKS, min_size=1, max_size=12))
def test_path_shows_where_earlier_requests_part(prompts: list[list[int]]) -> None:
    """There is a node after the longest prefix that any earlier request had in common."""
    tree = PrefixTree(64)
    for number, prompt in enumerate(prompts):
        path = tree.path(runs_of(prompt))
        assert path[-1].end_blocks == len(prompt)
        assert [node.end_tokens for node in path] == [64 * node.end_blocks for node in path]
        longest = max((_common(prompt, earlier) for earlier in prompts[:number]), default=0)
        seen = [node.end_blocks for node in path if node.uses]
        assert max(seen, default=0) == longest
        for node in path:
            node.uses += 1


@given(prompts=st.lists(BLOCKS, min_size=1, max_size=8), boundary=st.integers(1, 12))
def test_boundary_is_a_node_and_changes_nothing_else(
    prompts: list[list[int]], boundary: int
) -> None:
    """A boundary inside the prompt gets a node of its own; the blocks stay the same."""
    tree = PrefixTree(1)
    for prompt in prompts:
        path = tree.path(runs_of(prompt), (boundary,))
        ends = [node.end_blocks for node in path]
        assert ends == sorted(set(ends))
        assert ends[-1] == len(prompt)
        assert boundary in ends or boundary > len(prompt)


def test_what_is_known_of_a_run_holds_for_both_halves() -> None:
    """A run that is split keeps its uses, and the lower half stays the node that it was."""
    tree = PrefixTree(1)
    (whole,) = tree.path([(1, 10)])
    use = Use(0.0, [])
    whole.uses, whole.last_use = 3, use
    upper, _ = tree.path([(1, 4), (20, 1)])
    assert (upper.uses, upper.last_use, upper.end_blocks) == (3, use, 4)
    assert tree.path([(1, 10)])[-1] is whole


def test_the_same_ids_after_another_prefix_are_other_blocks() -> None:
    """A block is identified by everything before it, not by its id alone."""
    tree = PrefixTree(1)
    first, second = tree.path([(1, 1), (5, 3)]), tree.path([(2, 1), (5, 3)])
    assert first[-1] is not second[-1]


@given(ids=st.lists(st.integers(0, 20)))
def test_runs_hold_the_same_ids(ids: list[int]) -> None:
    """Run-length coding loses nothing."""
    assert [first + step for first, count in runs_of(ids) for step in range(count)] == ids
