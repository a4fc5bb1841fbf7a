"""Which models a router chooses from, and which of them can take a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuppence.errors import InvalidInput
from tuppence.language import translator
from tuppence.model_router.request import read_request
from tuppence.model_router.tiers import RoutedModel, load_models
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

BOOK = load_price_book(load_settings().cache_directory)
FILE = """
[[model]]
id = "gpt-6-sol"
tier = "strong"
languages = ["en", "zh"]
capabilities = ["json"]

[[model]]
id = "small-one"
tier = "weak"
context_window = 8_000
tools = false
images = false
"""


@pytest.mark.parametrize(
    ("preset", "models"),
    [
        ("default", ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"]),
        (
            "chapter-12",
            ["claude-haiku-3-20250307", "claude-sonnet-4-20250514", "claude-opus-4-20250514"],
        ),
    ],
)
def test_presets(preset: str, models: list[str]) -> None:
    """The presets are today's three tiers and the document's, weak to strong."""
    loaded = load_models(preset, BOOK)
    assert [one.id for one in loaded] == models
    assert [one.tier for one in loaded] == [0, 1, 2]


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    """A TOML file names models of any provider; what it leaves out is allowed."""
    path = tmp_path / "tiers.toml"
    path.write_text(FILE, encoding="utf-8")
    strong, weak = load_models(path, BOOK)
    assert (strong.tier, strong.tools, strong.languages) == (2, True, {"en", "zh"})
    assert weak == RoutedModel(
        id="small-one", tier=0, context_window=8_000, tools=False, images=False
    )
    assert load_models(str(path), BOOK) == (strong, weak)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no"),
        ("model = 3", "has no"),
        ("[[model]", "no TOML"),
        ('[[model]]\ntier = "weak"', "without an id"),
        ('[[model]]\nid = "a"\ntier = "tiny"', "none of weak, middle, strong"),
        ('[[model]]\nid = "a"\ntier = "weak"\nprize = 3', "prize"),
        ('[[model]]\nid = "a"\ntier = "weak"\ntools = "yes"', "tools"),
        ('[[model]]\nid = "a"\ntier = "weak"\ncontext_window = -1', "context_window"),
        ('[[model]]\nid = "a"\ntier = "weak"\nlanguages = "en"', "languages"),
        ('[[model]]\nid = "a"\ntier = "weak"\n' * 2, "twice"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, problem: str) -> None:
    """A file that cannot be used is refused, and the error says what is wrong with it."""
    path = tmp_path / "tiers.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=problem):
        load_models(path, BOOK)


def test_no_file_and_no_preset(tmp_path: Path) -> None:
    """A file that is not there and a preset that there is not are refused."""
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_models(tmp_path / "none.toml", BOOK)
    with pytest.raises(InvalidInput, match="chapter-12"):
        load_models("cheapest", BOOK)
    with pytest.raises(InvalidInput, match="tiers=5"):
        load_models(5, BOOK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "tokens", "requires", "lack"),
    [
        ("text", 10, (), None),
        ("text", 9_000, (), "context window of 8,000 tokens, needed are 9,000"),
        ({"messages": [], "max_tokens": 7_999}, 2, (), "needed are 8,001"),
        ({"messages": [], "tools": [{"name": "f"}]}, 1, (), "no tools"),
        ({"messages": [{"content": [{"type": "image"}]}]}, 1, (), "no images"),
        ("文章", 1, (), "no zh"),
        ("text", 1, ("json", "speech"), "no speech"),
    ],
)
def test_what_a_model_lacks(
    request_: object, tokens: int, requires: tuple[str, ...], lack: str | None
) -> None:
    """A model that cannot take a request is left out, with the reason."""
    model = RoutedModel(
        id="m",
        tier=0,
        context_window=8_000,
        tools=False,
        images=False,
        languages=frozenset({"en"}),
        capabilities=frozenset({"json"}),
    )
    found = model.lacks(read_request(request_), tokens, frozenset(requires))
    assert found is None if lack is None else lack in str(found and found.told())


@pytest.mark.parametrize(
    ("languages", "text", "lack"),
    [
        (["zh"], "What is this?", "no Latin letters"),
        (["zh", "ja"], "Was ist das?", "no Latin letters"),
        (["zh", "en"], "Was ist das?", None),
        (["zh"], "12 + 30 = ?", None),
        (["zh"], "這是什麼", None),
        (["en"], "這是什麼", "no zh"),
        ([], "What is this?", None),
    ],
)
def test_languages(languages: list[str], text: str, lack: str | None) -> None:
    """Latin letters need a language that is written in them; which one they do not tell."""
    model = RoutedModel(id="m", tier=0, languages=frozenset(languages))
    found = model.lacks(read_request(text), 1, frozenset())
    assert (found and found.told()) == lack


def test_lacks_are_told_in_chinese() -> None:
    """Why a model is left out is told in the reader's language."""
    model = RoutedModel(id="m", tier=0, context_window=1_000)
    found = model.lacks(read_request("text"), 2_000, frozenset())
    assert found is not None
    assert found.told(translator("zh_TW")).startswith("上下文視窗為 1,000 個 token")
