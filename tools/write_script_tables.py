"""Write src/tuppence/model_router/script_tables.npz from Unicode and OpenCC's dictionaries.

Run with the package opencc-python-reimplemented installed (its dictionaries: Apache-2.0).
"""

# ruff: noqa: RUF001 - characters that look alike are what this file is about

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np

from tuppence.model_router.script import CLASSES, TABLES_PATH

UNITS = 1 << 16
MOST_PHRASE_CHARACTERS = 6
# Written differently by the converter for one meaning, and never worth telling apart here.
MERGED = {"覆": "复", "瞭": "了", "藉": "借", "鍊": "链", "炼": "链", "俱": "具"}
MERGED_PHRASES = (("坐标", "座标"),)
KINDS = {
    "period": ".。．…",
    "comma": ",，、;；",
    "question": "?？!！",
    "colon": ":：",
    "round_bracket": "()（）",
    "square_bracket": "[]【】「」《》",
    "curly_bracket": "{}",
    "quote": "\"'“”‘’",
    "operator": "+-*/^<>|~±×÷≤≥√∑∫",
    "equals": "=",
    "dollar": "$",
    "backslash": "\\",
    "underscore": "_",
    "percent": "%",
    "backtick": "`",
}


def pairs(dictionaries: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Return the entries of a dictionary of OpenCC."""
    for line in (dictionaries / name).read_text(encoding="utf-8").splitlines():
        if "\t" in line:
            key, values = line.split("\t", 1)
            yield key, values.split()


def simplified(dictionaries: Path) -> dict[str, str]:
    """Return character -> the simplified one that stands for it in either script."""
    table = {key: values[0] for key, values in pairs(dictionaries, "TSCharacters.txt")}
    for name in ("TWVariantsRev.txt", "HKVariantsRev.txt"):
        for key, values in pairs(dictionaries, name):
            table[key] = table.get(values[0], values[0])
    # What the converter makes of a simplified character has to lead back to it.
    for key, values in pairs(dictionaries, "STCharacters.txt"):
        for value in values:
            table.setdefault(value, table.get(key, key))
    for key, values in pairs(dictionaries, "TWVariants.txt"):
        for value in values:
            table.setdefault(value, table.get(key, key))
    table = {key: table.get(value, value) for key, value in table.items()}
    return {key: MERGED.get(value, value) for key, value in table.items()} | MERGED


def fold_table(table: dict[str, str]) -> np.ndarray:
    """Return code unit -> folded code unit."""
    fold = np.arange(UNITS, dtype=np.uint16)
    for unit in range(UNITS):
        if 0xD800 <= unit < 0xE000:
            continue
        character = chr(unit)
        category = unicodedata.category(character)
        if category == "Nd":
            character = "0"
        elif character.isspace() and character != "\n":
            character = " "
        else:
            wide = unicodedata.normalize("NFKC", character).lower()
            character = wide if len(wide) == 1 else character.lower()
            character = table.get(character, character)
        if len(character) == 1 and ord(character) < UNITS:
            fold[unit] = ord(character)
    return fold


def kind_table() -> np.ndarray:
    """Return code unit -> number in CLASSES."""
    named = {character: kind for kind, characters in KINDS.items() for character in characters}
    return np.array([CLASSES.index(_kind(unit, named)) for unit in range(UNITS)], dtype=np.uint8)


def _kind(unit: int, named: dict[str, str]) -> str:
    character = chr(unit)
    category = unicodedata.category(character)
    if 0xD800 <= unit < 0xE000:
        return "symbol"
    if character in named:
        return named[character]
    if character.isspace():
        return "newline" if character == "\n" else "space"
    if 0x3400 <= unit < 0xA000 or 0xF900 <= unit < 0xFB00:
        return "ideograph"
    by_category = {"Ll": "lower", "Lu": "upper", "Nd": "digit"}
    by_group = {"L": "other_letter", "M": "other_letter", "C": "control"}
    return by_category.get(category) or by_group.get(category[0], "symbol")


def phrase_table(dictionaries: Path, fold: np.ndarray) -> dict[str, str]:
    """Return phrase -> the one that stands for all that mean the same."""
    leaders: dict[str, str] = {}

    def leader(phrase: str) -> str:
        while leaders.setdefault(phrase, phrase) != phrase:
            phrase = leaders[phrase]
        return phrase

    def folded(phrase: str) -> str:
        return "".join(chr(fold[ord(one)]) if ord(one) < UNITS else one for one in phrase)

    merged = ((key, [value]) for key, value in MERGED_PHRASES)
    for key, values in chain(pairs(dictionaries, "TWPhrases.txt"), merged):
        for value in values:
            first, second = folded(key), folded(value)
            if (
                2 <= len(first) <= MOST_PHRASE_CHARACTERS
                and 2 <= len(second) <= MOST_PHRASE_CHARACTERS
            ):
                leaders[leader(second)] = leader(first)
    return {phrase: leader(phrase) for phrase in sorted(leaders) if leader(phrase) != phrase}


def main() -> None:
    """Write the tables."""
    spec = find_spec("opencc")
    if spec is None or spec.origin is None:
        sys.exit("install opencc-python-reimplemented first")
    dictionaries = Path(spec.origin).parent / "dictionary"
    fold = fold_table(simplified(dictionaries))
    phrases = phrase_table(dictionaries, fold)
    np.savez_compressed(
        TABLES_PATH,
        fold=fold,
        kinds=kind_table(),
        phrases=np.array(list(phrases)),
        replacements=np.array(list(phrases.values())),
    )
    print(f"{len(phrases)} phrases, {np.count_nonzero(fold != np.arange(UNITS))} characters")


if __name__ == "__main__":
    main()
