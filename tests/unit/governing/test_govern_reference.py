"""The page on governed clients names every option that there is."""

from __future__ import annotations

import inspect
import re

from tests.conftest import REPOSITORY
from tuppence.governing.scope import scope
from tuppence.governing.steps import GovernOptions

PAGE = (REPOSITORY / "docs" / "reference" / "govern.md").read_text(encoding="utf-8")


def test_every_option_is_described() -> None:
    """An option that `govern` takes must be on its page."""
    assert {one for one in GovernOptions.__annotations__ if f"`{one}`" not in PAGE} == set()


def test_every_name_of_a_scope_is_described() -> None:
    """What `scope` takes must be on the page."""
    found = re.search(r"`with tuppence\.scope\(([^)]*)\)", PAGE)
    assert found is not None
    assert re.findall(r"(\w+)=", found[1]) == list(inspect.signature(scope).parameters)
