"""One form for texts that mean the same: case, width, digits, Traditional and Simplified Chinese.

The tables come from Unicode and from OpenCC's dictionaries (Apache-2.0), written by
tools/write_script_tables.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TABLES_PATH = Path(__file__).parent / "script_tables.npz"

CLASSES = (
    "lower",
    "upper",
    "digit",
    "space",
    "newline",
    "ideograph",
    "other_letter",
    "period",
    "comma",
    "question",
    "colon",
    "round_bracket",
    "square_bracket",
    "curly_bracket",
    "quote",
    "operator",
    "equals",
    "dollar",
    "backslash",
    "underscore",
    "percent",
    "backtick",
    "control",
    "symbol",
)
"""Kinds of characters that are counted."""

_PAIR_MULTIPLIER = np.uint32(0x9E3779B1)
_PAIR_SHIFT = np.uint32(16)


WORD = np.uint32(1 << 16)
"""Set beside the code of letters of alphabets and of digits: what words are made of."""
_CODE = np.uint32((1 << 17) - 1)
_CLASS_SHIFT = np.uint32(17)
_IDEOGRAPHS = 0x2E80


class Read(NamedTuple):
    """A text as numbers."""

    codes: npt.NDArray[np.uint32]
    """Of each UTF-16 code unit: lower case, half width, Simplified, every digit a 0; with `WORD`.

    Words that Taiwan and the mainland name differently are the mainland's, in either script."""
    classes: npt.NDArray[np.uint32]
    """The number in `CLASSES` of each code unit, as it was written."""


class _Tables(NamedTuple):
    packed: npt.NDArray[np.uint32]
    """By code unit: its class, whether words are made of it, and what it is folded to."""
    is_phrase_start: npt.NDArray[np.bool_]
    phrases: dict[str, str]


def read_text(text: str) -> Read:
    """Return the codes and classes of a text."""
    tables = _tables()
    packed = tables.packed.take(_units(text))
    codes = packed & _CODE
    if len(codes) > 1 and not text.isascii():
        pairs = (codes[:-1] * _PAIR_MULTIPLIER + codes[1:]) * _PAIR_MULTIPLIER >> _PAIR_SHIFT
        starts = np.flatnonzero(tables.is_phrase_start.take(pairs))
        if len(starts):
            codes = _with_phrases(codes, starts, tables)
    return Read(codes, packed >> _CLASS_SHIFT)


def pair_hash(first: int, second: int) -> int:
    """Return where two code units that begin a phrase are marked."""
    pair = np.array([first, second], dtype=np.uint32)
    found = (pair[:1] * _PAIR_MULTIPLIER + pair[1:]) * _PAIR_MULTIPLIER >> _PAIR_SHIFT
    return int(found[0])


def _units(text: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16)


def _with_phrases(
    codes: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], tables: _Tables
) -> npt.NDArray[np.uint32]:
    text = codes.astype(np.uint16).tobytes().decode("utf-16-le", "surrogatepass")
    pieces, done = [], 0
    for start in starts.tolist():
        if start < done:
            continue
        for size in _PHRASE_SIZES:
            replacement = tables.phrases.get(text[start : start + size])
            if replacement is not None:
                pieces += [text[done:start], replacement]
                done = start + size
                break
    pieces.append(text[done:])
    folded: npt.NDArray[np.uint32] = tables.packed.take(_units("".join(pieces))) & _CODE
    return folded


_PHRASE_SIZES = (6, 5, 4, 3, 2)


@cache
def _tables() -> _Tables:
    with np.load(TABLES_PATH) as stored:
        phrases = dict(
            zip(stored["phrases"].tolist(), stored["replacements"].tolist(), strict=True)
        )
        marks = np.zeros(1 << 16, dtype=np.bool_)
        fold = stored["fold"].astype(np.uint32)
        packed = fold | (stored["kinds"].astype(np.uint32) << _CLASS_SHIFT)
    packed[_is_word(fold)] |= WORD
    for phrase in phrases:
        first, second = (int(packed[ord(letter)] & _CODE) for letter in phrase[:2])
        marks[pair_hash(first, second)] = True
    return _Tables(packed, marks, phrases)


def _is_word(fold: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    is_digit = (fold >= ord("0")) & (fold <= ord("9"))
    return is_digit | ((fold >= ord("a")) & (fold < _IDEOGRAPHS))
