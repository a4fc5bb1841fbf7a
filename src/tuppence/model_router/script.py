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


class _Tables(NamedTuple):
    fold: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.uint8]
    is_phrase_start: npt.NDArray[np.bool_]
    phrases: dict[str, str]


def folded_codes(text: str) -> npt.NDArray[np.uint32]:
    """Return the text's UTF-16 code units: lower case, half width, Simplified, every digit a 0.

    Words that Taiwan and the mainland name differently become the mainland's, in either script.
    """
    tables = _tables()
    codes = tables.fold[_units(text)]
    if len(codes) > 1:
        pairs = (codes[:-1] * _PAIR_MULTIPLIER + codes[1:]) * _PAIR_MULTIPLIER >> _PAIR_SHIFT
        starts = np.flatnonzero(tables.is_phrase_start[pairs])
        if len(starts):
            return _with_phrases(codes, starts, tables.phrases)
    return codes


def class_of(text: str) -> npt.NDArray[np.uint8]:
    """Return the number in `CLASSES` of every UTF-16 code unit of a text."""
    return _tables().kinds[_units(text)]


def pair_hash(first: int, second: int) -> int:
    """Return where two code units that begin a phrase are marked."""
    pair = np.array([first, second], dtype=np.uint32)
    found = (pair[:1] * _PAIR_MULTIPLIER + pair[1:]) * _PAIR_MULTIPLIER >> _PAIR_SHIFT
    return int(found[0])


def _units(text: str) -> npt.NDArray[np.uint16]:
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16)


def _with_phrases(
    codes: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], phrases: dict[str, str]
) -> npt.NDArray[np.uint32]:
    text = codes.astype(np.uint16).tobytes().decode("utf-16-le", "surrogatepass")
    pieces, done = [], 0
    for start in starts.tolist():
        if start < done:
            continue
        for size in _PHRASE_SIZES:
            replacement = phrases.get(text[start : start + size])
            if replacement is not None:
                pieces += [text[done:start], replacement]
                done = start + size
                break
    pieces.append(text[done:])
    return _units("".join(pieces)).astype(np.uint32)


_PHRASE_SIZES = (6, 5, 4, 3, 2)


@cache
def _tables() -> _Tables:
    with np.load(TABLES_PATH) as stored:
        phrases = dict(
            zip(stored["phrases"].tolist(), stored["replacements"].tolist(), strict=True)
        )
        marks = np.zeros(1 << 16, dtype=np.bool_)
        for phrase in phrases:
            marks[pair_hash(ord(phrase[0]), ord(phrase[1]))] = True
        return _Tables(stored["fold"].astype(np.uint32), stored["kinds"], marks, phrases)
