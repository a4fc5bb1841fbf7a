"""A request is cut where a prompt cache could hold it, and keyed by all that comes before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.caching.request_blocks import blocks_of
from tuppence.errors import InvalidRequest

TEXTS = st.text(min_size=1, max_size=8)
CONTENTS = st.one_of(
    TEXTS,
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), min_size=1),
)
REQUESTS = st.fixed_dictionaries(
    {
        "tools": st.lists(
            st.fixed_dictionaries({"name": TEXTS, "input_schema": st.just({"type": "object"})})
        ),
        "system": CONTENTS,
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant"]), "content": CONTENTS}
            ),
            min_size=1,
        ),
    }
)
MARKER = {"type": "ephemeral"}


def _digests(request: dict[str, Any], level: str = "") -> list[bytes]:
    return [one.digest for one in blocks_of(request).blocks if level in ("", one.level)]


def _at(request: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        request = request[step]
    return request


@given(REQUESTS)
def test_blocks_stand_where_their_paths_say(request: dict[str, Any]) -> None:
    """Each path leads to its block, in the order tools, system, messages; no prefix is another."""
    blocks = blocks_of(request).blocks
    levels = [block.level for block in blocks]
    assert levels == sorted(levels, key=["tools", "system", "messages"].index)
    for block in blocks:
        assert isinstance(_at(request, block.path), str | dict)
        assert block.size_bytes > 0
    assert len({block.digest for block in blocks}) == len(blocks)


@given(REQUESTS, st.data())
def test_markers_do_not_change_keys(request: dict[str, Any], data: st.DataObject) -> None:
    """Marking any block leaves all digests and sizes as they are, and is told at its index."""
    plain = blocks_of(request)
    index = data.draw(st.integers(0, len(plain.blocks) - 1))
    marked = copy.deepcopy(request)
    place = _at(marked, plain.blocks[index].path)
    if isinstance(place, str):
        return
    place["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
    found = blocks_of(marked)
    assert [one.digest for one in found.blocks] == [one.digest for one in plain.blocks]
    assert [one.size_bytes for one in found.blocks] == [one.size_bytes for one in plain.blocks]
    assert (found.markers, found.blocks[index].ttl_seconds) == ((index,), 3600)


@given(REQUESTS, CONTENTS)
def test_what_is_appended_keeps_the_keys_before(request: dict[str, Any], content: Any) -> None:
    """A conversation that goes on begins with the keys it had."""
    longer = {**request, "messages": [*request["messages"], {"role": "user", "content": content}]}
    before = _digests(request)
    assert _digests(longer)[: len(before)] == before


@given(REQUESTS, st.data())
def test_a_change_changes_all_keys_from_there_on(
    request: dict[str, Any], data: st.DataObject
) -> None:
    """The block that was changed and all after it have new keys, those before keep theirs."""
    blocks = blocks_of(request).blocks
    index = data.draw(st.integers(0, len(blocks) - 1))
    changed = copy.deepcopy(request)
    *above, last = blocks[index].path
    holder = _at(changed, tuple(above))
    if isinstance(holder[last], str):
        holder[last] += "!"
    else:
        key = "text" if "text" in holder[last] else "name"
        holder[last][key] += "!"
    same = [a == b.digest for a, b in zip(_digests(changed), blocks, strict=True)]
    assert same == [True] * index + [False] * (len(blocks) - index)


def test_order_of_keys_matters() -> None:
    """A prefix is compared byte for byte, so another order of keys is another prefix."""
    one = {"tools": [{"name": "x", "input_schema": {}}], "messages": _hello()}
    other = {"tools": [{"input_schema": {}, "name": "x"}], "messages": _hello()}
    assert not set(_digests(one)) & set(_digests(other))


def _hello(**more: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "hello", **more}]}]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"tool_choice": {"type": "any"}}, {"tools", "system"}),
        ({"thinking": {"type": "adaptive"}}, {"tools", "system"}),
        ({"output_config": {"effort": "low"}}, {"tools", "system"}),
        ({"output_config": {"effort": "high"}}, {"tools", "system", "messages"}),
        ({"speed": "fast"}, {"tools"}),
        ({"speed": "standard"}, {"tools", "system", "messages"}),
        ({"max_tokens": 5, "metadata": {}}, {"tools", "system", "messages"}),
        ({"messages": [*_hello(), *_hello(citations={"enabled": True})]}, {"tools"}),
    ],
)
def test_settings_invalidate_levels(change: dict[str, Any], kept: set[str]) -> None:
    """A parameter changes the keys of the levels that it invalidates, and of no other."""
    request = {
        "tools": [{"name": "x", "input_schema": {}}],
        "system": "be kind",
        "messages": _hello(),
    }
    same = {
        level
        for level in ("tools", "system", "messages")
        if _digests({**request, **change}, level)[:1] == _digests(request, level)[:1]
    }
    assert same == kept


@pytest.mark.parametrize(
    ("request_body", "field"),
    [
        ([], "request"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        (
            {"messages": _hello(cache_control={"type": "ephemeral", "ttl": "2h"})},
            "messages[0].content[0].cache_control.ttl",
        ),
        ({"messages": _hello(cache_control=MARKER) * 5}, "cache_control"),
        (
            {"messages": _hello(cache_control=MARKER) * 4 + _hello(), "cache_control": MARKER},
            "cache_control",
        ),
        (
            {
                "system": [{"type": "text", "text": "x", "cache_control": MARKER}],
                "messages": _hello(cache_control={"type": "ephemeral", "ttl": "1h"}),
            },
            "messages[0].content[0].cache_control.ttl",
        ),
        (
            {"messages": _hello(cache_control=MARKER, type="thinking")},
            "messages[0].content[0].cache_control",
        ),
    ],
)
def test_what_the_provider_refuses_is_named(request_body: Any, field: str) -> None:
    """A request that would be refused raises an error that names the place and what to do."""
    with pytest.raises(InvalidRequest) as caught:
        blocks_of(request_body)
    assert caught.value.field == field
    assert caught.value.remedy
