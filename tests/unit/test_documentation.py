"""The documentation names everything that there is, and leads nowhere that there is not."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING

import click
import pytest

from tests.conftest import REPOSITORY
from tuppence import errors
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.entrypoints.cli import EXIT_FAILURE, EXIT_USAGE, cli
from tuppence.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REFERENCE = REPOSITORY / "docs" / "reference"
PAGES = sorted(
    [
        *REPOSITORY.glob("README*.md"),
        REPOSITORY / "CONTRIBUTING.md",
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)
PAGE_NAMES = [str(path.relative_to(REPOSITORY)) for path in PAGES]
README = REPOSITORY / "README.md"
README_ZH_TW = REPOSITORY / "README.zh-TW.md"
LANGUAGE_LINKS = {"README.md", "README.zh-TW.md"}

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
BRANCH = re.compile(r"^((?:│   |    )*)[├└]── (\w+)", re.MULTILINE)


class EnvironmentRead(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Answer as an empty environment does."""
        self.names.add(name)
        return default


def _text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def _without_code(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def _commands(
    command: click.Command, path: tuple[str, ...] = ("tuppence",)
) -> Iterator[tuple[str, click.Command]]:
    """Yield (full name, command) for a command and everything below it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _commands(below, (*path, name))


COMMANDS = dict(_commands(cli))


def _sections(text: str) -> dict[str, str]:
    """Return the page's text by heading; what comes before the second heading is under ""."""
    first, *others = re.split(r"^##+ ", text, flags=re.MULTILINE)
    return {"": first} | {part.partition("\n")[0]: part for part in others}


def _section_of(name: str) -> str:
    """Return the part of the command line's page that speaks of a command."""
    sections = _sections(_text("command-line.md"))
    own = [heading for heading in sections if f"{heading} ".startswith((f"`{name} ", f"`{name}`"))]
    if own:
        return sections[own[0]]
    return _section_of(name.rpartition(" ")[0]) if " " in name else sections[""]


def _error_classes() -> dict[str, type[errors.TuppenceError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.TuppenceError)
    }


def _headings(page: Path) -> list[str]:
    return [heading for _level, heading in HEADING.findall(_without_code(page))]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _typed_commands(page: Path) -> list[str]:
    """Return what the page tells its reader to type, without comments."""
    consoles = [code for kind, code in FENCED.findall(page.read_text("utf-8")) if kind == "console"]
    typed = re.findall(r"^\$ (.*)$", "\n".join(consoles), re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in typed]


def _python(page: Path) -> str:
    """Return the Python of a page without its comments."""
    blocks = [code for kind, code in FENCED.findall(page.read_text("utf-8")) if kind == "python"]
    return re.sub(r"\s+# .*$", "", "\n".join(blocks), flags=re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described(name: str) -> None:
    """A command that the program has must be named on the page of the command line."""
    assert f"`{name}" in _text("command-line.md") or name == "tuppence import"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    """An option must be named in the section of its command, or among those of all commands."""
    described = _section_of(name) + _sections(_text("command-line.md"))[""]
    options = [one for one in COMMANDS[name].params if isinstance(one, click.Option)]
    flags = {flag for option in options for flag in option.opts}
    assert {flag for flag in flags if not re.search(rf"[` ]{flag}\b", described)} == set()


def test_every_described_option_exists() -> None:
    """An option on the page of the command line must be one that some command has."""
    known = {flag for one in COMMANDS.values() for option in one.params for flag in option.opts}
    named = set(re.findall(r"`(--[a-z0-9-]+)", _text("command-line.md")))
    assert named - known - {"--help"} == set()


def test_exit_codes_are_described() -> None:
    """The exit codes of the program must be on the page of the command line."""
    codes = re.findall(r"^\| (\d+) \|", _text("command-line.md"), re.MULTILINE)
    assert codes == ["0", str(EXIT_FAILURE), str(EXIT_USAGE), "130"]


def test_every_setting_is_described() -> None:
    """Each field of the settings must have its line on the page of the settings."""
    described = re.findall(r"^\| `(\w+)` \|", _text("settings.md"), re.MULTILINE)
    assert [field.name for field in dataclasses.fields(Settings)] == described


def test_every_environment_variable_is_described() -> None:
    """Each variable that is read must be named on the page of the settings."""
    environment = EnvironmentRead()
    load_settings(environment)
    missing = {name for name in environment.names if f"`{name}`" not in _text("settings.md")}
    assert missing == set()


def test_every_error_is_described_with_its_exit_code() -> None:
    """Each error must have its line on the page of the errors, with the code it ends with."""
    lines = re.findall(r"^\| `(\w+)` \|.*\| (\d) \|$", _text("errors.md"), re.MULTILINE)
    assert dict(lines) == {
        name: str(EXIT_USAGE if issubclass(kind, errors.InvalidInput) else EXIT_FAILURE)
        for name, kind in _error_classes().items()
    }


def test_tree_of_errors_is_drawn_as_it_is() -> None:
    """The tree on top of errors.py must show each error under the one it derives from."""
    drawn: dict[str, str] = {}
    above = ["TuppenceError"]
    for indent, name in BRANCH.findall(errors.__doc__ or ""):
        depth = len(indent) // 4 + 1
        above[depth:] = [name]
        drawn[name] = above[depth - 1]
    derived = {name: kind.__bases__[0].__name__ for name, kind in _error_classes().items()}
    del derived["TuppenceError"]
    assert drawn == derived


def test_every_method_of_the_service_is_described() -> None:
    """Each public method of the service must be on the page for Python, with its arguments."""
    page = _text("python.md")
    for name, method in inspect.getmembers(CostTrackingService, inspect.isfunction):
        if not name.startswith("_"):
            found = re.search(rf"`{name}\(([^`]*)\)`", page)
            assert found is not None, name
            arguments = [one for one in inspect.signature(method).parameters if one != "self"]
            assert [one for one in arguments if one not in found[1]] == [], name


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link must lead to a file, and to a heading of it where it names one."""
    broken = []
    for target, anchor in LINK.findall(_without_code(page)):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        known = [_anchor(heading) for heading in _headings(path)] if path.is_file() else []
        if not path.exists() or (anchor and anchor not in known):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_there_are_pages_to_check() -> None:
    """The checks of links must not pass because they looked into the wrong directory."""
    assert {"README.md", "README.zh-TW.md", "docs/reference/errors.md"} <= set(PAGE_NAMES)


def test_chinese_readme_has_the_same_sections() -> None:
    """README.zh-TW.md must have the sections of README.md, in the same order and depth."""
    levels = [
        [level for level, _heading in HEADING.findall(_without_code(page))]
        for page in (README, README_ZH_TW)
    ]
    assert levels[0] == levels[1]


def test_chinese_readme_has_the_same_commands_and_code() -> None:
    """What README.zh-TW.md tells its reader to type or to run must be that of README.md."""
    assert _typed_commands(README) == _typed_commands(README_ZH_TW)
    assert _python(README) == _python(README_ZH_TW)


def test_chinese_readme_has_the_same_links() -> None:
    """README.zh-TW.md must lead to all that README.md leads to."""
    targets = [
        [target for target, _ in LINK.findall(_without_code(page)) if target not in LANGUAGE_LINKS]
        for page in (README, README_ZH_TW)
    ]
    assert targets[0] == targets[1]
