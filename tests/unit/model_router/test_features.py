"""What the classifier sees: the same for either Chinese script, and defined for any text."""

# ruff: noqa: RUF001 - Chinese texts

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.model_router.features import BUCKETS, MEASURES, features_of
from tuppence.model_router.script import read_text


def _folded(text: str) -> str:
    return read_text(text).codes.astype(np.uint16).tobytes().decode("utf-16-le", "surrogatepass")


@given(st.text(st.characters(), max_size=300))
def test_every_text_has_features(text: str) -> None:
    """Any text, lone surrogates and control characters too, has finite features in range."""
    features = features_of(text)
    assert features.measures.shape == (len(MEASURES),)
    assert np.isfinite(features.measures).all()
    assert (features.buckets < BUCKETS).all()


@pytest.mark.parametrize(
    ("simplified", "traditional"),
    [
        ("帮我总结这篇文章", "幫我總結這篇文章"),
        ("实现一个二叉树遍历算法", "實現一個二叉樹遍歷算法"),
        ("这个软件的程序怎么运行？", "這個軟體的程式怎麼執行？"),
        ("打印网络里的信息", "列印網路裡的資訊"),
        ("据了解，回复已反复确认", "據瞭解，回覆已反覆確認"),
    ],
)
def test_either_script_looks_the_same(simplified: str, traditional: str) -> None:
    """One text in Simplified and in Taiwan's Traditional Chinese has the same n-grams."""
    assert _folded(simplified) == _folded(traditional)
    assert np.array_equal(features_of(simplified).buckets, features_of(traditional).buckets)


def test_case_width_and_digits_are_folded() -> None:
    """Upper case, full width and the digits themselves do not change what a text is about."""
    assert _folded("ＡＢＣ　１２３") == _folded("abc 789") == "abc 000"


def test_words_count_wherever_they_stand() -> None:
    """A word falls into the same bucket at the beginning, in the middle and at the end."""
    places = ("prove it now", "now prove it", "it now prove")
    shared = set.intersection(*(set(features_of(text).buckets.tolist()) for text in places))
    strangers = set(features_of("zzqx").buckets.tolist())
    assert len(shared) > 20
    assert len(shared & strangers) == 0


def test_long_texts_are_read_at_both_ends() -> None:
    """What stands in the middle of a long text changes nothing; its end does."""
    start, end = "question " * 400, "answer " * 400
    middle = features_of(f"{start}{'x' * 5_000}{end}").buckets
    other_middle = features_of(f"{start}{'y' * 5_000}{end}").buckets
    other_end = features_of(f"{start}{'x' * 5_000}{end[:-40]}{'z' * 40}").buckets
    assert np.array_equal(middle, other_middle)
    assert not np.array_equal(middle, other_end)


@pytest.mark.parametrize(
    "polite",
    [
        "Hi! {}",
        "Hello, could you please {}",
        "I have a question. {}",
        "{} Thanks!",
        "{}\n\nThank you very much.",
        "  {}\n",
        "Can you tell me: {}",
        "Answer the following question:\n\n{}",
        "Question: {}",
        "請問，{}",
        "{}謝謝您！",
    ],
)
def test_politeness_does_not_count(polite: str) -> None:
    """Greetings, thanks and white space at the ends change nothing of what a text is."""
    text = "list the first five primes."
    one, other = features_of(text), features_of(polite.format(text))
    assert np.array_equal(one.buckets, other.buckets)
    assert np.array_equal(one.measures, other.measures)


@pytest.mark.parametrize("text", ["hi", "Thanks!", "please", "你好"])
def test_politeness_alone_is_a_text(text: str) -> None:
    """A text that is nothing but polite is read as it is."""
    assert len(features_of(text).buckets) > 1


def test_spaces_and_line_ends_do_not_count() -> None:
    """Doubled spaces and line ends of another system change nothing."""
    text = "list the primes\nbelow ten, and say why."
    one = features_of(text)
    for written in (text.replace(" ", "  "), text.replace("\n", "\r\n")):
        other = features_of(written)
        assert np.array_equal(one.buckets, other.buckets)
        assert np.array_equal(one.measures, other.measures)


@pytest.mark.parametrize("polite", [" ", "thanks ", "please, ", "thanks", "謝謝。 ", "Please "])
def test_politeness_that_never_ends(polite: str) -> None:
    """Repeated politeness before something else is read in linear time: no pattern tries again."""
    begun = time.process_time()
    features_of(polite * 100 + "x")
    features_of("x" + polite * 100 + "x")
    assert time.process_time() - begun < 1  # it took longer than anybody waited
