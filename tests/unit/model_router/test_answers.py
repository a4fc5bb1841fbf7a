"""Final answers are found and compared as a person would."""

# ruff: noqa: RUF001 - Chinese texts

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.model_router.answers import final_answer, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"First \boxed{3}, no: \boxed{4}", "4"),
        ("The answer is 42.", "42"),
        ("The final answer is: (B) because ...", "B"),
        ("答案是：17", "17"),
        ('{"reasoning": "...", "answer": 5}', "5"),
        ("We get 3, then 4 and then 12 apples", "12"),
        ("Paris", "Paris"),
        ("", ""),
        (r"\boxed{unbalanced", "unbalanced"),
    ],
)
def test_final_answers(text: str, answer: str) -> None:
    """What is boxed, said to be the answer, a JSON field, or the last number; else the text."""
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac{3}{4}", "3/4", True),
        ("1,000", "1000", True),
        ("$5$", "5", True),
        ("50%", "0.5", True),
        ("Paris", " paris. ", True),
        (r"\text{no}", "no", True),
        ("5", "6", False),
        ("1/0", "1/0", True),
        ("1/0", "2/0", False),
        ("", "", False),
        ("", "5", False),
    ],
)
def test_same_answers(first: str, second: str, same: bool) -> None:
    """Notation does not count, value does; nothing agrees with nothing."""
    assert same_answer(first, second) is same
    assert same_answer(second, first) is same


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    """Any text has a final answer, and agrees with itself unless it is empty of content."""
    answer = final_answer(text)
    assert same_answer(answer, answer) in {True, False}


@pytest.mark.parametrize("text", ["\\boxed{" * 150_000, "1" * 1_000_000, "answer is " * 100_000])
def test_long_texts_take_no_time(text: str) -> None:
    """A megabyte is read in a moment, however it is made."""
    begun = time.process_time()
    answer = final_answer(text)
    same_answer(answer, answer)
    assert time.process_time() - begun < 5
