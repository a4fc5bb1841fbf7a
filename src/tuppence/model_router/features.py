"""What the classifier sees of a text: hashed n-grams and some fifty measures of its form.

Everything is done by numpy over whole arrays: a text takes well under a
millisecond. Long texts are read at both ends (`HEAD_CHARACTERS`, `TAIL_CHARACTERS`); their length
is counted whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.model_router.script import CLASSES, class_of, folded_codes

HEAD_CHARACTERS = 1_500
TAIL_CHARACTERS = 500
BUCKET_BITS = 18
BUCKETS = 1 << BUCKET_BITS
NGRAM_SIZES = (1, 2, 3, 5)
MOST_WORD_CHARACTERS = 24

_MULTIPLIER = np.uint32(0x9E3779B1)
_SALTS = np.array([0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0xD3A2646D], dtype=np.uint32)
_WORD_SALT, _PAIR_SALT = np.uint32(0xFD7046C5), np.uint32(0xB55A4F09)
_SHIFT = np.uint32(32 - BUCKET_BITS)
_POWERS = np.cumprod(
    np.full(MOST_WORD_CHARACTERS + 1, 0x01000193, dtype=np.uint32), dtype=np.uint32
)
_OPTION = re.compile(r"^\s*\(?([A-J])[.):、．]", re.MULTILINE)  # noqa: RUF001
_NEGATION = re.compile(r"\b(?:NOT|EXCEPT|except|LEAST|least|FALSE|false)\b|不|错误|除")
_CODE = re.compile(r"```|\bdef \w|\bimport \w|\bclass \w|;\s*$|[{}]\s*$", re.MULTILINE)

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
    """Return the features of a text of any length and content."""
    read, is_cut = _both_ends(text)
    codes = folded_codes(read)
    classes = class_of(read)
    words = _word_hashes(codes)
    return Features(_buckets(codes, words), _measures(text, read, classes, words, is_cut=is_cut))


def _both_ends(text: str) -> tuple[str, bool]:
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text, False
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}", True


def _buckets(codes: npt.NDArray[np.uint32], words: npt.NDArray[np.uint32]) -> Buckets:
    parts = []
    rolling, done = codes, 1
    for size, salt in zip(NGRAM_SIZES, _SALTS, strict=True):
        for last in range(done, min(size, len(codes))):
            rolling = rolling[:-1] * _MULTIPLIER + codes[last:]
        done = size
        if size <= len(codes):
            parts.append((rolling * salt) >> _SHIFT)
    parts.append((words * _WORD_SALT) >> _SHIFT)
    if len(words) > 1:
        parts.append(((words[:-1] * _MULTIPLIER + words[1:]) * _PAIR_SALT) >> _SHIFT)
    return np.concatenate(parts)


def _word_hashes(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return a hash for every run of letters and digits of alphabets, in their order."""
    inside = (codes >= _ZERO) & (codes < _IDEOGRAPHS) & ((codes <= _NINE) | (codes >= _A))
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1 if len(codes) else np.empty(0, np.int64)
    if len(codes) and inside[0]:
        edges = np.concatenate((np.zeros(1, np.int64), edges))
    starts = edges[::2]
    if not len(starts):
        return np.empty(0, np.uint32)
    ends = edges[1::2] if len(edges) % 2 == 0 else np.append(edges[1::2], len(codes))
    lengths = ends - starts
    total = int(lengths.sum())
    firsts = np.cumsum(lengths) - lengths
    place = np.arange(total) - np.repeat(firsts, lengths)
    letters = codes[np.flatnonzero(inside)]
    spread = letters * _POWERS[np.minimum(place, MOST_WORD_CHARACTERS)]
    hashes: npt.NDArray[np.uint32] = np.add.reduceat(spread, firsts, dtype=np.uint32) * _MULTIPLIER
    return hashes ^ (hashes >> np.uint32(15))


_ZERO, _NINE, _A, _IDEOGRAPHS = (np.uint32(ord(one)) for one in ("0", "9", "a", "\u2e80"))


def _measures(
    text: str,
    read: str,
    classes: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint32],
    *,
    is_cut: bool,
) -> Floats:
    counts = np.bincount(classes, minlength=len(CLASSES)).astype(np.float32)
    lines = read.split("\n")
    options = _options(read)
    digit_runs, capital_runs = (
        np.count_nonzero((classes[1:] == kind) & (classes[:-1] != kind))
        for kind in (_DIGIT, _UPPER)
    )
    letters = counts[_LOWER] + counts[_UPPER]
    plain = np.array(
        [
            len(text),
            len(words),
            len(lines),
            len(lines[0]),
            len(lines[-1]),
            max(map(len, lines)),
            letters / max(len(words), 1),
            digit_runs,
            capital_runs,
            len(set(words.tolist())) / max(len(words), 1),
            *options,
            _NEGATION.search(read) is not None,
            _CODE.search(read) is not None,
            read.rstrip()[-1:] in ("?", "？"),  # noqa: RUF001
            is_cut,
        ],
        dtype=np.float32,
    )
    plain[_LOGARITHMIC] = np.log1p(plain[_LOGARITHMIC])
    return np.concatenate((plain, np.log1p(counts), counts / np.float32(max(len(read), 1))))


_LOWER, _UPPER, _DIGIT = (CLASSES.index(name) for name in ("lower", "upper", "digit"))
_LOGARITHMIC = np.array([name.startswith("log_") for name in LINE_MEASURES])


def _options(read: str) -> tuple[float, float, float, float, float]:
    """Return how many options a question offers, the stem's length, their mean, spread, digits."""
    marks = list(_OPTION.finditer(read))
    if len(marks) < 2:
        return 0.0, float(len(read)), 0.0, 0.0, 0.0
    ends = [*(mark.start() for mark in marks[1:]), len(read)]
    bodies = [read[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    sizes = [len(body.strip()) for body in bodies[:-1]] or [0]
    mean = sum(sizes) / len(sizes)
    spread = (sum((size - mean) ** 2 for size in sizes) / len(sizes)) ** 0.5 / (mean + 1)
    with_digits = sum(any(map(str.isdigit, body)) for body in bodies) / len(bodies)
    return float(len(marks)), float(marks[0].start()), mean, spread, with_digits
