"""Translations: complete, compiled, with the same placeholders, and cheap to have."""

from __future__ import annotations

import ast
import string
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

from tests.conftest import REPOSITORY
from tuppence.language import LOCALE_DIRECTORY, REPORT_TEXTS, translator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from babel.messages.catalog import Catalog

PO_PATH = LOCALE_DIRECTORY / "zh_TW" / "LC_MESSAGES" / "tuppence.po"
SOURCE_FILES = sorted((REPOSITORY / "src").rglob("*.py"))
MARKS = {"_", "gettext", "mark"}


def _catalogue() -> Catalog:
    with PO_PATH.open("rb") as file:
        return read_po(file, abort_invalid=True)


def _marked(path: Path) -> Iterator[str]:
    """Yield the constant messages of one file that are marked for translation."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in MARKS:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _placeholders(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def test_compiled_catalogue_is_what_the_source_says() -> None:
    """The .mo file in the repository must hold the messages of the .po file beside it."""
    with PO_PATH.with_suffix(".mo").open("rb") as file:
        compiled = read_mo(file)
    # The header names the version of Babel, which may change without a translation changing.
    assert {one.id: one.string for one in compiled if one.id} == {
        one.id: one.string for one in _catalogue() if one.id
    }


def test_no_marked_text_is_untranslated() -> None:
    """Each text marked in the source must have a translation, whoever wrote it."""
    translated = {message.id for message in _catalogue() if message.string and not message.fuzzy}
    marked = {text for path in SOURCE_FILES for text in _marked(path)}
    assert sorted(marked - translated) == []
    assert len(marked) > len(REPORT_TEXTS)


def test_no_translation_is_left_over() -> None:
    """A translation of a text that the source no longer has must be removed."""
    marked = {text for path in SOURCE_FILES for text in _marked(path)}
    assert [message.id for message in _catalogue() if message.id and message.id not in marked] == []


def test_translations_have_the_same_placeholders() -> None:
    """A translation must fill in the same values as the text, or it fails when it is shown."""
    differing = [
        message.id
        for message in _catalogue()
        if _placeholders(str(message.id)) != _placeholders(str(message.string))
    ]
    assert differing == []


@pytest.mark.parametrize(
    "language", ["zh_TW", "zh-TW", "zh_tw", "zh_TW.UTF-8", "zh", "zh_HK", "zh-Hant", "zh_Hant_TW"]
)
def test_traditional_chinese_is_found_by_all_its_names(language: str) -> None:
    """The name may be written as in HTTP, in Python or in the environment."""
    assert translator(language)("Cache read") == "快取讀取"


@pytest.mark.parametrize("language", ["en", "en_GB.UTF-8", "C", "", "de_DE", "zh_CN", "../zh_TW"])
def test_other_languages_are_answered_in_english(language: str) -> None:
    """A locale without a catalogue must not be an error, since it comes from the environment."""
    assert translator(language)("Cache read") == "Cache read"


@pytest.mark.parametrize("text", ["", "claude-haiku-5-5"])
def test_what_has_no_translation_stays_as_it_is(text: str) -> None:
    """Names pass unchanged, and the empty text must not become the header of the catalogue."""
    assert translator("zh_TW")(text) == text


def test_importing_reads_no_catalogue_and_little_else() -> None:
    """The command line starts with this import, so it must need nothing but the library."""
    code = (
        "import sys, tuppence.language as language\n"
        "others = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(sorted(others - {'__main__', 'tuppence'} - before), language._load.cache_info()[3])"
    )
    before = "import sys\nbefore = {name.partition('.')[0] for name in sys.modules}\n"
    run = subprocess.run(
        [sys.executable, "-c", before + code],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert run.stdout.strip() == "[] 0"
