"""Comparisons of routed answers: the judges, the log, the figures, and when to roll back."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.shadow import (
    MOST_COMPARISONS,
    Comparison,
    ExpectedAnswer,
    Judge,
    ModelJudge,
    Qualities,
    Shadow,
    VerifierJudge,
    is_below_floor,
    read_comparisons,
    report,
)


def _comparison(quality: float = 1.0, strongest: float = 1.0, cost: int = 10) -> Comparison:
    return Comparison(
        "2026-11-24T09:00:00+00:00", "simple", "a", "top", quality, strongest, cost, 40
    )


def _judged(judge: Judge, replies: Sequence[str] = (), texts: Sequence[str] = ("x", "y")) -> Any:
    """Return the qualities and the requests that a judge made for them."""
    judging = judge.compare({"max_tokens": 5}, "prompt", *texts)
    asked: list[dict[str, Any]] = []
    try:
        asked.append(next(judging))
        for reply in replies:
            asked.append(judging.send(reply))  # noqa: PERF401 - extend would swallow the end
    except StopIteration as done:
        return done.value, asked
    return None, asked


@pytest.mark.parametrize(
    ("replies", "qualities"),
    [
        (("A", "B"), Qualities(1.0, 0.0)),
        (("b.", "**A**"), Qualities(0.0, 1.0)),
        (("A", "A"), Qualities(1.0, 1.0)),
        (("SAME", "B"), Qualities(1.0, 1.0)),
        (("I think A", "?"), Qualities(1.0, 1.0)),
    ],
)
def test_a_model_is_asked_in_both_orders(replies: tuple[str, str], qualities: Qualities) -> None:
    """Only a verdict that holds in both orders counts."""
    told, asked = _judged(ModelJudge("judge"), replies)
    assert told == qualities
    first, second = (one["messages"][0]["content"] for one in asked)
    assert first.index("x\n</answer_a>") < first.index("y\n</answer_b>")
    assert second.index("y\n</answer_a>") < second.index("x\n</answer_b>")


def test_an_answer_beside_itself_needs_no_judge() -> None:
    """Two equal answers are equally good, and no call is paid to hear that."""
    assert _judged(ModelJudge("judge"), (), ("x", "x")) == (Qualities(1.0, 1.0), [])


def test_judges_that_ask_nobody() -> None:
    """A function rates both; an expected answer is in a text or not."""
    rated, asked = _judged(VerifierJudge(lambda _request, text: 0.75 if text == "x" else 0.5))
    assert (rated, asked) == (Qualities(0.75, 0.5), [])
    right, asked = _judged(ExpectedAnswer("12"), (), ("It is 12.", "It is 13."))
    assert (right, asked) == (Qualities(1.0, 0.0), [])


@pytest.mark.parametrize("rating", [-0.1, 1.1, math.nan])
def test_ratings_are_shares(rating: float) -> None:
    """What is no share is refused by name."""
    with pytest.raises(InvalidInput, match="is no rating"):
        _judged(VerifierJudge(lambda _request, _text: rating))


@pytest.mark.parametrize("field", ["share", "floor"])
@pytest.mark.parametrize("value", [0, 1.1, math.nan])
def test_shares_are_shares(tmp_path: Path, field: str, value: float) -> None:
    """A share or floor that is none is refused."""
    options: dict[str, Any] = {field: value}
    with pytest.raises(InvalidInput) as caught:
        Shadow(tmp_path / "log", **options)
    assert caught.value.field == field


def test_the_sample(tmp_path: Path) -> None:
    """About the share of calls is drawn, the same ones by the same seed."""
    drawn = [
        [shadow.is_drawn() for _ in range(1_000)]
        for shadow in (Shadow(tmp_path / "log", 0.2, drawing=random.Random(7)) for _ in range(2))
    ]
    assert drawn[0] == drawn[1]
    assert 150 < sum(drawn[0]) < 250


def test_what_is_added_is_read(tmp_path: Path) -> None:
    """A log holds what was added to it, by whomever, in order."""
    log = tmp_path / "log"
    shadows = [Shadow(log), Shadow(log)]
    for number in range(4):
        shadows[number % 2].add(_comparison(cost=number))
        assert all(len(one.comparisons.newest()) == number + 1 for one in shadows)
    assert [one.cost_nanos for one in read_comparisons(log)] == [0, 1, 2, 3]


@pytest.mark.parametrize("kept", [1, 9, 100, 220])
def test_a_crash_in_the_middle_of_a_line(tmp_path: Path, kept: int) -> None:
    """A last line that was cut off does not count, and the next one stands alone."""
    log = tmp_path / "log"
    Shadow(log).add(_comparison(cost=1))
    whole = log.read_bytes()
    log.write_bytes(whole + whole[: min(kept, len(whole) - 2)])
    shadow = Shadow(log)
    assert not shadow.is_below_floor()
    assert len(read_comparisons(log)) == 1
    shadow.add(_comparison(cost=2))
    assert [one.cost_nanos for one in shadow.comparisons.newest()] == [1, 2]
    assert [one.cost_nanos for one in read_comparisons(log)] == [1, 2]


def test_a_last_line_that_is_whole(tmp_path: Path) -> None:
    """A line counts without its end of line, once, and stays when another is added."""
    log = tmp_path / "log"
    log.write_text(json.dumps(_comparison(cost=1)._asdict()), encoding="utf-8")
    shadow = Shadow(log)
    assert len(shadow.comparisons.newest()) == 1
    shadow.add(_comparison(cost=2))
    assert [one.cost_nanos for one in shadow.comparisons.newest()] == [1, 2]
    assert [one.cost_nanos for one in read_comparisons(log)] == [1, 2]


def test_a_log_that_begins_anew(tmp_path: Path) -> None:
    """When the file was replaced by a shorter one, only that counts."""
    shadow = Shadow(tmp_path / "log")
    for _ in range(3):
        shadow.add(_comparison())
    assert len(shadow.comparisons.newest()) == 3
    shadow.log.unlink()
    assert not shadow.comparisons.newest()
    shadow.add(_comparison())
    assert len(shadow.comparisons.newest()) == 1


@pytest.mark.parametrize(
    "text", ["hello", "hello\n", '{"a": 1}', "[]\n", '{"at": "x\n{}\n', "\xff\n"]
)
def test_files_that_are_no_log(tmp_path: Path, text: str) -> None:
    """Another file is refused; so is a line that is broken in the middle of a log."""
    log = tmp_path / "log"
    log.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidTrace, match="holds no comparisons"):
        Shadow(log).is_below_floor()
    with pytest.raises(InvalidTrace, match="holds no comparisons"):
        read_comparisons(log)
    assert log.read_text(encoding="latin-1") == text


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(InvalidInput, match="cannot be written"):
        Shadow(tmp_path / "none" / "log").add(_comparison())


def test_the_newest_count(tmp_path: Path) -> None:
    """Old comparisons are forgotten: traffic and models change."""
    log = tmp_path / "log"
    lines = [_comparison(cost=number) for number in range(MOST_COMPARISONS + 5)]
    log.write_text("".join(json.dumps(one._asdict()) + "\n" for one in lines), encoding="utf-8")
    comparisons = read_comparisons(log)
    assert len(comparisons) == MOST_COMPARISONS
    assert comparisons[0].cost_nanos == 5


def test_the_figures() -> None:
    """Regret, kept quality and saving of a small table, worked out by hand."""
    rows = [
        _comparison(1.0, 1.0),
        _comparison(0.0, 1.0),
        _comparison(1.0, 1.0),
        _comparison(0.5, 0.5),
    ]
    told = report(rows, 0.98, fewest=50)
    assert told.comparisons == 4
    assert told.regret.value == pytest.approx(0.25)
    assert told.kept_quality.value == pytest.approx(2.5 / 3.5)
    assert told.saving_nanos.value == pytest.approx(30)
    assert told.saving_share.value == pytest.approx(0.75)
    assert told.regret.low <= told.regret.value <= told.regret.high
    assert not told.is_below_floor


def test_nothing_compared() -> None:
    """Without a comparison there are no figures, and no reason to roll back."""
    told = report([], 0.98, fewest=0)
    assert told.comparisons == 0
    assert math.isnan(told.kept_quality.value)
    assert not told.is_below_floor


@pytest.mark.parametrize(
    ("rows", "floor", "below"),
    [
        ([_comparison(1.0, 1.0)] * 60, 0.98, False),
        ([_comparison(0.0, 1.0)] * 60, 0.98, True),
        ([_comparison(0.0, 1.0)] * 49, 0.98, False),  # too few
        ([_comparison(0.0, 1.0)] * 6 + [_comparison()] * 54, 0.98, True),
        ([_comparison(0.0, 1.0)] * 2 + [_comparison()] * 58, 0.98, False),  # may be chance
        ([_comparison(0.0, 0.0)] * 60, 0.98, False),  # nobody is right: nothing is lost
        ([_comparison(1.0, 0.0)] * 60, 0.98, False),
    ],
)
def test_when_to_roll_back(rows: Sequence[Comparison], floor: float, below: bool) -> None:
    """Enough comparisons whose quality is below the floor, and not by chance."""
    assert is_below_floor(rows, floor) is below
    assert report(rows, floor, fewest=50).is_below_floor is below


def test_the_quick_interval_is_the_resampled_one() -> None:
    """The decision follows the interval that is shown, within a hundredth."""
    rng = np.random.default_rng(0)
    for right in (0.6, 0.8, 0.9, 0.95):
        rows = [
            _comparison(float(rng.random() < right), float(rng.random() < 0.95)) for _ in range(300)
        ]
        high = report(rows, 0.98, fewest=50).kept_quality.high
        assert is_below_floor(rows, high + 0.01)
        assert not is_below_floor(rows, high - 0.01)


def test_a_full_log_costs_little(tmp_path: Path) -> None:
    """Only what is new is read: a comparison takes no longer because there were many before."""
    log = tmp_path / "log"
    line = json.dumps(_comparison()._asdict()) + "\n"
    log.write_text(line * MOST_COMPARISONS, encoding="utf-8")
    shadow = Shadow(log)
    shadow.is_below_floor()
    begun = time.process_time()
    for _ in range(10):
        shadow.add(_comparison())
        shadow.is_below_floor()
    assert (time.process_time() - begun) / 10 < 0.05  # resampling took 0.2 s
