"""Runs the examples in the documentation: every Python block of README.md and docs/."""

from collections.abc import Iterator
from os import chdir
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


@pytest.fixture(scope="module")
def example_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the examples of a page in an empty directory, so that they may write files."""
    before = Path.cwd()
    chdir(tmp_path_factory.mktemp("examples"))
    yield
    chdir(before)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],
    fixtures=["example_directory"],
).pytest()
