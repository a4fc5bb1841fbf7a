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
        ('{"b": 2, "a": [1]}', '{"a": [1], "b": 2}'),
        ('```json\n{"answer": 5}\n```', "5"),
        ("It is 12.", "12"),
        ("It is **12**.", "12"),
        ("$1,200", "1,200"),
        ("一共有 12。", "12"),
        ("We get 3 + 4 = 7, and 5 more are 12 apples", "12"),
        ("Paris", "Paris"),
        ("", ""),
        (r"\boxed{unbalanced", "unbalanced"),
    ],
)
def test_final_answers(text: str, answer: str) -> None:
    """What is boxed, said to be the answer, a JSON field, or a number told; else the text."""
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France has been Paris since 2000.",
        "I was trained in 2000.",
        "We spoke of 3, then of 4 and then of 12 apples",
        "Use `range`:\n```python\nx = 1\nfor i in range(10):\n    x += i\n```",
        "let x = 1;\nlet y = x + 10;",
        "def f():\n    x = 1\n    return x + 10",
    ],
)
def test_a_number_in_passing_is_no_answer(text: str) -> None:
    """A year or a number in code is not what a text comes to: the text itself is."""
    assert final_answer(text) == text


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac{3}{4}", "3/4", True),
        ("1,000", "1000", True),
        ("1,000,000", "1000000", True),
        ("1, 2", "1,2", True),
        ("1, 2", "12", False),
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


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 150_000,
        "1" * 1_000_000,
        "answer is " * 100_000,
        "[" * 1_000_000,
        "= " * 500_000,
        "\n" * 500_000 + "x",
        "1 " * 500_000,
    ],
)
def test_long_texts_take_no_time(text: str) -> None:
    """A megabyte is read in a moment, however it is made."""
    begun = time.process_time()
    answer = final_answer(text)
    same_answer(answer, answer)
    assert time.process_time() - begun < 5
