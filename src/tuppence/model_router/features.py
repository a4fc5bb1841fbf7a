"""What the classifier sees of a text: hashed n-grams and some fifty measures of its form.

Everything is done by numpy over whole arrays: a text takes well under a
millisecond. Long texts are read at both ends (`HEAD_CHARACTERS`, `TAIL_CHARACTERS`); their length
is counted whole.
"""

from __future__ import annotations

import re
from math import log1p
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.model_router.script import CLASSES, WORD, read_text

HEAD_CHARACTERS = 1_000
TAIL_CHARACTERS = 300
BUCKET_BITS = 18
BUCKETS = 1 << BUCKET_BITS
NGRAM_SIZES = (1, 2, 4)
MOST_WORD_CHARACTERS = 24

_MULTIPLIER = np.uint32(0x9E3779B1)
_SALTS = np.array([0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0xD3A2646D], dtype=np.uint32)
_WORD_SALT, _PAIR_SALT = np.uint32(0xFD7046C5), np.uint32(0xB55A4F09)
_SHIFT = np.uint32(32 - BUCKET_BITS)
_POWERS = np.cumprod(
    np.full(MOST_WORD_CHARACTERS + 1, 0x01000193, dtype=np.uint32), dtype=np.uint32
)
_OPTION_LETTERS = frozenset("ABCDEFGHIJ")
_OPTION_MARKS = (".", ")", ":", "、", "．")  # noqa: RUF001
_NEGATIONS = ("NOT", "EXCEPT", "except", "LEAST", "least", "FALSE", "false")
_NEGATIONS_ZH = ("不", "错误", "除", "錯誤")
_CODE_MARKS = ("```", "def ", "import ", "class ", ";\n", "{\n", "}\n")

POLITE_CHARACTERS = 100
# Possessive throughout (++, *+): what a stranger writes must not make a pattern try again.
_GREETING = re.compile(
    r"(?:\s++|(?:hi|hey|hello|good morning|please|pls|kindly|thanks in advance|i have a question|"
    r"i need help|quick question|(?:could|can|would|will) you(?: please)?(?: tell me)?|"
    r"(?:answer|solve) (?:the following|this) (?:question|problem)|question(?=:))\b[\s,.:;!]*+|"
    r"(?:你好|您好|請問|请问|麻煩你?|麻烦你?|拜託|拜托)[\s,，。:：!！]*+)++",  # noqa: RUF001
    re.IGNORECASE,
)
_SPACES = re.compile(" {2,}")
_THANKS = re.compile(
    r"(?:\s++|\b(?:thanks?(?: you)?(?: very much| so much| a lot| in advance)?|thx|cheers|please|"
    r"any help (?:is|would be) (?:much )?appreciated)[\s,.!]*+|"
    r"(?:謝謝|谢谢|感謝|感谢)[你您]?[\s。!！]*+)++$",  # noqa: RUF001
    re.IGNORECASE,
)

Floats = npt.NDArray[np.float32]
Buckets = npt.NDArray[np.uint32]


class Features(NamedTuple):
    """What the classifier sees of one text."""

    buckets: Buckets
    """A bucket for every n-gram, word and pair of words, as often as it occurs."""
    measures: Floats
    """In the order of `MEASURES`."""


LINE_MEASURES = (
    "log_characters",
    "log_words",
    "log_lines",
    "log_first_line",
    "log_last_line",
    "log_longest_line",
    "mean_word",
    "log_numbers",
    "log_runs_of_capitals",
    "distinct_words",
    "log_options",
    "log_stem",
    "log_mean_option",
    "spread_of_options",
    "digits_of_options",
    "negation",
    "code",
    "ends_with_question",
    "is_cut",
)
MEASURES = (
    *LINE_MEASURES,
    *(f"log_{name}" for name in CLASSES),
    *(f"share_{name}" for name in CLASSES),
)


def features_of(text: str) -> Features:
    """Return the features of a text of any length and content.

    Politeness, runs of spaces and the kind of line ends do not count.
    """
    text = _without_politeness(text)
    shown, is_cut = _both_ends(text)
    shown = _SPACES.sub(" ", shown.replace("\r\n", "\n"))
    text = text if is_cut else shown
    read = read_text(shown)
    words = _word_hashes(read.codes)
    measures = _measures(text, shown, read.classes, words, is_cut=is_cut)
    return Features(_buckets(read.codes, words), measures)


def _without_politeness(text: str) -> str:
    """Return a text without white space, greetings and thanks at its ends, if anything is left."""
    start = _GREETING.match(text[:POLITE_CHARACTERS])
    end = _THANKS.search(text[-POLITE_CHARACTERS:])
    first = start.end() if start else 0
    last = len(text) - (len(end[0]) if end else 0)
    return text[first:last] if first < last else text.strip()


def _both_ends(text: str) -> tuple[str, bool]:
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text, False
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}", True


def _buckets(codes: npt.NDArray[np.uint32], words: npt.NDArray[np.uint32]) -> Buckets:
    parts = []
    rolling, done = codes, 1
    for size, salt in zip(NGRAM_SIZES, _SALTS, strict=False):
        for last in range(done, min(size, len(codes))):
            rolling = rolling[:-1] * _MULTIPLIER
            rolling += codes[last:]
        done = size
        if size <= len(codes):
            parts.append(rolling * salt)
    parts.append(words * _WORD_SALT)
    if len(words) > 1:
        pairs = words[:-1] * _MULTIPLIER
        pairs += words[1:]
        pairs *= _PAIR_SALT
        parts.append(pairs)
    buckets = np.concatenate(parts)
    buckets >>= _SHIFT
    return buckets


def _word_hashes(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return a hash for every run of letters and digits of alphabets, in their order."""
    inside = np.zeros(len(codes) + 2, dtype=np.bool_)
    np.greater_equal(codes, WORD, out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts = edges[::2]
    if not len(starts):
        return np.empty(0, np.uint32)
    lengths = edges[1::2] - starts
    ends = np.cumsum(lengths)
    firsts = ends - lengths
    place = np.arange(ends[-1]) - np.repeat(firsts, lengths)
    spread = codes[inside[1:-1]] * _POWERS.take(place, mode="clip")
    hashes: npt.NDArray[np.uint32] = np.add.reduceat(spread, firsts, dtype=np.uint32)
    hashes *= _MULTIPLIER
    return hashes ^ (hashes >> np.uint32(15))


def _measures(
    text: str,
    shown: str,
    classes: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint32],
    *,
    is_cut: bool,
) -> Floats:
    counts = np.bincount(classes, minlength=len(CLASSES))
    runs = np.bincount(classes[1:][classes[1:] != classes[:-1]], minlength=len(CLASSES)).tolist()
    letters = int(counts[_LOWER] + counts[_UPPER])
    lines = shown.split("\n")
    count = len(words)
    measures = np.empty(len(MEASURES), dtype=np.float32)
    measures[: len(LINE_MEASURES)] = (
        log1p(len(text)),
        log1p(count),
        log1p(len(lines)),
        log1p(len(lines[0])),
        log1p(len(lines[-1])),
        log1p(max(map(len, lines))),
        letters / max(count, 1),
        log1p(runs[_DIGIT]),
        log1p(runs[_UPPER]),
        len(set(words.tolist())) / max(count, 1),
        *_options(shown, lines),
        _is_negated(shown),
        any(mark in shown for mark in _CODE_MARKS),
        shown.rstrip()[-1:] in ("?", "？"),  # noqa: RUF001
        is_cut,
    )
    by_class = measures[len(LINE_MEASURES) :].reshape(2, -1)
    np.log1p(counts, out=by_class[0], dtype=np.float32, casting="unsafe")
    np.divide(counts, max(len(shown), 1), out=by_class[1], casting="unsafe")
    return measures


_LOWER, _UPPER, _DIGIT = (CLASSES.index(name) for name in ("lower", "upper", "digit"))


def _is_negated(shown: str) -> bool:
    if any(word in shown and _has_word(shown, word) for word in _NEGATIONS):
        return True
    return not shown.isascii() and any(word in shown for word in _NEGATIONS_ZH)


def _has_word(shown: str, word: str) -> bool:
    """Tell whether a word stands by itself; a regular expression takes ten times as long."""
    place = shown.find(word)
    while place >= 0:
        after = shown[place + len(word) : place + len(word) + 1]
        if not (after.isalnum() or (place and shown[place - 1].isalnum())):
            return True
        place = shown.find(word, place + 1)
    return False


def _options(shown: str, lines: list[str]) -> tuple[float, float, float, float, float]:
    """Return how many options a question offers, the stem's length, their mean, spread, digits."""
    starts, bodies, start = [], [], 0
    for line in lines:
        begun = line.lstrip(" \t(")
        if begun[:1] in _OPTION_LETTERS and begun[1:2] in _OPTION_MARKS:
            starts.append(start)
            bodies.append(start + len(line) - len(begun) + 2)
        start += len(line) + 1
    if len(starts) < 2:
        return 0.0, log1p(len(shown)), 0.0, 0.0, 0.0
    ends = [*starts[1:], len(shown)]
    texts = [shown[body:end] for body, end in zip(bodies, ends, strict=True)]
    sizes = [len(one.strip()) for one in texts[:-1]]
    mean = sum(sizes) / len(sizes)
    spread = (sum((size - mean) ** 2 for size in sizes) / len(sizes)) ** 0.5 / (mean + 1)
    with_digits = sum(_HAS_DIGIT.search(one) is not None for one in texts) / len(texts)
    return log1p(len(starts)), log1p(starts[0]), log1p(mean), spread, with_digits


_HAS_DIGIT = re.compile(r"\d")
