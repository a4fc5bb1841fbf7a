"""The languages that people are spoken to in: English in the source, others from catalogues.

Codes, keys of dictionaries and errors are the same in every language; only texts for reading are
translated. `tools/compile_translations.py` turns the .po files into the .mo files read here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from gettext import translation
from pathlib import Path

DOMAIN = "tuppence"
LOCALE_DIRECTORY = Path(__file__).parent / "locale"

Translate = Callable[[str], str]

_CHINESE = ("zh", "zh_tw", "zh_hk", "zh_mo")
"""Names of locales whose readers are served by Traditional Chinese (zh_Hant_* too)."""


def mark(message: str) -> str:
    """Return the message itself: this only marks it for translation, which happens when shown."""
    return message


def translator(language: str) -> Translate:
    """Return the translation into a language ("zh_TW", "zh-TW", "zh_TW.UTF-8"); English else.

    The name may come from the environment, so that an unknown one is no error.
    """
    catalogue = _catalogue_for(language)
    return mark if catalogue is None else _load(catalogue)


def _catalogue_for(language: str) -> str | None:
    name = language.partition(".")[0].partition("@")[0].replace("-", "_").lower()
    is_chinese = name in _CHINESE or name == "zh_hant" or name.startswith("zh_hant_")
    return "zh_TW" if is_chinese else None


@cache
def _load(catalogue: str) -> Translate:
    gettext = translation(DOMAIN, LOCALE_DIRECTORY, [catalogue]).gettext
    # gettext answers "" with the header of the catalogue.
    return lambda message: gettext(message) if message else message


REPORT_TEXTS = (
    mark("Input"),
    mark("Output"),
    mark("Cache write"),
    mark("Cache read"),
    mark("Cost"),
    mark("Share"),
    mark("Total"),
    mark("Requests"),
    mark("Team"),
    mark("Project"),
    mark("User"),
    mark("Model"),
    mark("Provider"),
    mark("Task type"),
    mark("Task complexity"),
    mark("Tag"),
    mark("Session"),
    mark("Agent"),
    mark("Organisation"),
    mark("Throttler"),
    mark("Day"),
    mark("Week"),
    mark("Month"),
    mark("Saved by caching"),
    mark("Budget"),
    mark("Limit"),
    mark("Spent"),
    mark("Used"),
    mark("State"),
    mark("normal"),
    mark("warning"),
    mark("critical"),
    mark("exceeded"),
    mark("unpriced"),
    mark("output incomplete"),
    mark("What to do next"),
    mark("usage log"),
    mark("indexes"),
    mark("roll-ups"),
    mark("names and prices"),
    mark("(unattributed)"),
)
"""Headings and words of reports, marked here so that every report uses the same ones."""
