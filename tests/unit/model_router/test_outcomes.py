"""Reading recorded outcomes, and what is learned from them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuppence.errors import InvalidTrace
from tuppence.model_router.outcomes import Outcome, read_outcomes, targets_of, tier_models


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def _outcome(scores: dict[str, float], source: str = "s", label: int | None = None) -> Outcome:
    return Outcome("prompt", source, "", "", scores, {}, label)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_outcomes_are_read(tmp_path: Path, name: str) -> None:
    """Plain and compressed files give the same; a label names a tier, a penalty counts as 0."""
    path = _write(
        tmp_path / name,
        {"prompt": "a", "scores": {"m": 1, "n": -0.2}, "subset": "law", "lang": "zh"},
        {"prompt": "b", "label": "REASONING", "source": "by-hand"},
    )
    first, second = read_outcomes(path)
    assert (first.source, first.subset, first.language) == ("rows", "law", "zh")
    assert first.scores == {"m": 1.0, "n": 0.0}
    assert (second.label, second.source) == (2, "by-hand")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no outcome"),
        (b"\n\n", "has no outcome"),
        (b"{", "line 1"),
        (b'{"prompt": "a"}', "neither scores nor label"),
        (b'{"scores": {"m": 1}}', "prompt"),
        (b'{"prompt": "a", "scores": {"m": 7}}', "outside"),
        (b'{"prompt": "a", "label": "EASY"}', "EASY"),
        (b'{"prompt": "a", "scores": []}', "line 1"),
        (b'{"prompt": "a", "scores": {"m": 1}, "cost": {"m": "0.1"}}', "no amount of dollars"),
        (b'{"prompt": "a", "scores": {"m": 1}, "cost": {"m": NaN}}', "no amount of dollars"),
        (b'{"prompt": "a", "scores": {"m": 1}, "cost": {"m": -1}}', "no amount of dollars"),
        (b'{"prompt": "a", "scores": {"m": 1}, "cost": 3}', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"\xff\xfe", "line"),
    ],
)
def test_unusable_files(tmp_path: Path, content: bytes, problem: str) -> None:
    """A file that is no file of outcomes is refused, with the line and what is wrong."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidTrace, match=problem):
        read_outcomes(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file and a broken archive are refused."""
    with pytest.raises(InvalidTrace, match="cannot be read"):
        read_outcomes(tmp_path / "none.jsonl")
    broken = tmp_path / "rows.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"prompt": "a", "label": "SIMPLE"}')[:-9])
    with pytest.raises(InvalidTrace):
        read_outcomes(broken)


def test_tiers_are_thirds_of_the_models() -> None:
    """The weakest, middle and strongest third by their mean; seldom tried models are left out."""
    rows = [_outcome({f"m{n}": n / 10 for n in range(6)}) for _ in range(20)]
    rows[0] = _outcome({**rows[0].scores, "rare": 1.0})
    tiers = tier_models(rows)
    assert tiers == (("m0", "m1"), ("m2", "m3"), ("m4", "m5"))
    assert tier_models([_outcome({"a": 0, "b": 1})]) == (("a",), (), ("b",))
    assert tier_models([_outcome({"a": 0})]) == ((), (), ("a",))


def test_what_is_to_be_predicted() -> None:
    """Shares of right models per tier; the first tier with more than 60 % right is needed."""
    rows = [
        _outcome({"a": 1, "b": 1, "c": 1}),
        _outcome({"a": 0, "b": 1, "c": 1}),
        _outcome({"a": 0, "b": 0, "c": 1}),
        _outcome({"a": 0, "b": 0, "c": 1}),
        _outcome({}, "by-hand", 1),
        _outcome({"x": 0, "y": 1}, "two"),
    ]
    targets = targets_of(rows)
    assert targets.needed.tolist() == [0, 1, 2, 2, 1, -1]
    assert targets.is_labelled.tolist() == [False] * 4 + [True, False]
    assert targets.quality[1].tolist() == [0, 1, 1]
    assert np.isnan(targets.quality[5]).tolist() == [False, True, False]
