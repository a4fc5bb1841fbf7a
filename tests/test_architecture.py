"""The house rules that no linter knows, checked on the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(path.relative_to(SOURCE)) for path in FILES]

MOST_LINES_IN_A_FILE = 500
MOST_LINES_IN_A_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "manager", "util", "utils"}
CALL_OBSERVERS = {"tuppence/model_router/steps.py"}  # a judge of shadow comparisons is the user's

every_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Tell a clean-up that lets the error go on from a handler that swallows it."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@every_file
def test_file_stays_readable(path: Path) -> None:
    """No file may be longer than one can read through in one sitting."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_IN_A_FILE


@every_file
def test_functions_stay_readable(path: Path) -> None:
    """No function, docstring included, may be longer than a screen."""
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in _functions(path)}
    too_long = {name: n for name, n in lengths.items() if n > MOST_LINES_IN_A_FUNCTION}
    assert too_long == {}


@every_file
def test_file_name_says_what_is_inside(path: Path) -> None:
    """A name that fits every content attracts every content, so none is allowed."""
    parts = {part.removesuffix(".py").strip("_") for part in path.relative_to(SOURCE).parts}
    assert set() == parts & NAMES_THAT_SAY_NOTHING


@every_file
def test_only_the_outermost_layer_swallows_every_error(path: Path) -> None:
    """Only the entry points may end every error, since only they report to a person.

    And what calls observers, which are code of the user's: a failing one never fails a call.
    """
    if path.is_relative_to(SOURCE / "tuppence" / "entrypoints"):
        return
    if path.relative_to(SOURCE).as_posix() in CALL_OBSERVERS:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    greedy = [one.lineno for one in handlers if _catches_everything(one) and not _raises_again(one)]
    assert greedy == []


def test_there_is_source_to_check() -> None:
    """The checks above must not pass because they looked into the wrong directory."""
    assert "tuppence/errors.py" in {Path(name).as_posix() for name in NAMES}
