"""The file of upstreams: what may stand in it, and what is said of what may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tuppence.entrypoints.gateway.upstream import Upstream
from tuppence.entrypoints.gateway.upstreams import Alias
from tuppence.entrypoints.gateway.upstreams_file import read_upstreams
from tuppence.errors import InvalidInput

ENVIRONMENT = {"EU_KEY": "sk-eu", "EMPTY": ""}
ROW = '[[upstream]]\nname = "eu"\nprovider = "anthropic"\napi_key_env = "EU_KEY"\n'
WHOLE = """
[[upstream]]
name = "anthropic-eu"
provider = "anthropic"
base_url = "https://eu.example.com/anthropic/v1/"
api_key_env = "EU_KEY"
models = ["claude-*"]
weight = 3
order = 2
connect_timeout_seconds = 1.5
timeout_seconds = 60
retries = 1

[[upstream]]
name = "main"
provider = "openai"
api_key_env = "EU_KEY"

[models.fast]
model = "gpt-6-sol"
upstreams = ["main"]

[models."claude-opus-4"]
model = "claude-opus-5-5"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's file is."""
    return tmp_path / "upstreams.toml"


def test_file_is_read_as_it_is_written(path: Path) -> None:
    """Every field has its effect, and what is left out has its default."""
    path.write_text(WHOLE)
    upstreams = read_upstreams(path, needs_key=True, environment=ENVIRONMENT)
    assert upstreams.all == (
        Upstream(
            name="main",
            provider="openai",
            base_url="https://api.openai.com",
            setting="upstream.main.base_url",
            api_key="sk-eu",
            models=(),
            weight=1,
            order=1,
            connect_timeout_seconds=10,
            timeout_seconds=600,
            retries=0,
        ),
        Upstream(
            name="anthropic-eu",
            provider="anthropic",
            base_url="https://eu.example.com/anthropic",
            setting="upstream.anthropic-eu.base_url",
            api_key="sk-eu",
            models=("claude-*",),
            weight=3,
            order=2,
            connect_timeout_seconds=1.5,
            timeout_seconds=60,
            retries=1,
        ),
    )
    assert upstreams.alias("fast") == Alias("fast", "gpt-6-sol", ("main",))
    assert upstreams.alias("claude-opus-4") == Alias("claude-opus-4", "claude-opus-5-5")


def test_without_keys_of_the_gateway_an_upstream_needs_none(path: Path) -> None:
    """Then the caller's own credential is sent on, as without a file."""
    path.write_text('[[upstream]]\nname = "eu"\nprovider = "anthropic"\n')
    (upstream,) = read_upstreams(path, needs_key=False, environment={}).all
    assert upstream.api_key is None


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("", "upstream", "add [[upstream]]"),
        ("upstream = 1", "upstream", "add [[upstream]]"),
        ("x = [", "upstreams", "is no TOML"),
        (f"upstraem = 1\n{ROW}", "upstraem", "there are upstream, models"),
        (f"models = 1\n{ROW}", "models", "write [models.NAME]"),
        ('[[upstream]]\nprovider = "openai"', "upstream[0].name", "is missing"),
        (f'{ROW}[[upstream]]\nname = "x"', "upstream[1].provider", "is missing"),
        (f"{ROW}{ROW}", "upstream.name", "is there twice"),
        (ROW.replace('"eu"', '"a b"'), "upstream[0].name", "give a name of letters"),
        (ROW.replace('"eu"', '"x\\r\\ny"'), "upstream[0].name", "give a name of letters"),
        (ROW.replace("anthropic", "google"), "upstream[0].provider", "anthropic or openai"),
        (ROW.replace('"anthropic"', "[]"), "upstream[0].provider", "anthropic or openai"),
        (f"{ROW}wieght = 1", "upstream[0].wieght", "there are name, provider"),
        (f"{ROW}weight = 0", "upstream[0].weight", "give a number above 0"),
        (f"{ROW}weight = -1.5", "upstream[0].weight", "give a number above 0"),
        (f"{ROW}weight = inf", "upstream[0].weight", "give a number above 0"),
        (f"{ROW}weight = nan", "upstream[0].weight", "give a number above 0"),
        (f"{ROW}weight = true", "upstream[0].weight", "give a number above 0"),
        (f"{ROW}order = 1.5", "upstream[0].order", "give a whole number"),
        (f"{ROW}retries = -1", "upstream[0].retries", "from 0 to 10"),
        (f"{ROW}retries = 11", "upstream[0].retries", "from 0 to 10"),
        (f"{ROW}timeout_seconds = 0", "upstream[0].timeout_seconds", "above 0"),
        (f'{ROW}connect_timeout_seconds = "1"', "upstream[0].connect_timeout_seconds", "above 0"),
        (f'{ROW}models = "claude-*"', "upstream[0].models", "give a list of names"),
        (f"{ROW}models = []", "upstream[0].models", "give a list of names"),
        (f'{ROW}base_url = "example.com"', "upstream[0].base_url", "give a URL"),
        (f'{ROW}base_url = "ftp://x"', "upstream[0].base_url", "give a URL"),
        (f'{ROW}base_url = "http://x:99999"', "upstream[0].base_url", "give a URL"),
        (f'{ROW}base_url = "http://me:pw@x"', "upstream[0].base_url", "give a URL"),
        (f'{ROW}base_url = "http://x/?a=b"', "upstream[0].base_url", "give a URL"),
        (ROW.replace("EU_KEY", "US_KEY"), "upstream.eu.api_key_env", "set US_KEY"),
        (ROW.replace("EU_KEY", "EMPTY"), "upstream.eu.api_key_env", "set EMPTY"),
        (ROW.replace("api_key_env", "#"), "upstream.eu.api_key_env", "is missing"),
        (f"{ROW}[models]\nfast = 1", "models.fast", "write [models.fast]"),
        (f"{ROW}[models.fast]", "models.fast.model", "is missing"),
        (f'{ROW}[models.fast]\nmodel = ""', "models.fast.model", "name the model"),
        (f'{ROW}[models.a]\nmodel = "x"\nmdl = 1', "models.a.mdl", "there are model, upstreams"),
        (
            f'{ROW}[models.a]\nmodel = "b"\n[models.b]\nmodel = "x"',
            "models.a.model",
            "is itself a name of the gateway's own",
        ),
        (f'{ROW}[models.a]\nmodel = "x"\nupstreams = []', "models.a.upstreams", "give a list"),
        (
            f'{ROW}[models.a]\nmodel = "x"\nupstreams = ["us"]',
            "models.a.upstreams",
            "choose from eu",
        ),
        (
            f'{ROW}[models.a]\nmodel = "x"\nupstreams = ["eu", "eu"]',
            "models.a.upstreams",
            "name each once",
        ),
        (
            f'{ROW}models = ["claude-*"]\n[models.a]\nmodel = "gpt-6"\nupstreams = ["eu"]',
            "models.a.upstreams",
            "does not serve gpt-6",
        ),
    ],
)
def test_what_cannot_be_used_is_named(path: Path, text: str, field: str, said: str) -> None:
    """An error says where it is, what is there and what to do."""
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_upstreams(path, needs_key=True, environment=ENVIRONMENT)
    assert refused.value.field == field
    assert said in str(refused.value)


@pytest.mark.parametrize("field", ["api_key_env", "api_key"])
def test_key_that_was_written_into_the_file_is_not_repeated(path: Path, field: str) -> None:
    """An error is printed and logged: a key that stands where it should not must not be in it."""
    path.write_text(ROW.replace('api_key_env = "EU_KEY"', f'{field} = "sk-ant-secret"'))
    with pytest.raises(InvalidInput) as refused:
        read_upstreams(path, needs_key=True, environment=ENVIRONMENT)
    assert refused.value.field == f"upstream[0].{field}"
    assert "secret" not in str(refused.value)


def test_file_that_is_not_there_or_no_text_is_refused(path: Path) -> None:
    """The error names the file."""
    for problem in ("cannot be read", "is no TOML"):
        with pytest.raises(InvalidInput, match=problem) as refused:
            read_upstreams(path, needs_key=True, environment=ENVIRONMENT)
        assert refused.value.value == str(path)
        path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("page", ["reference", "howto"])
def test_examples_of_the_documentation_can_be_used(path: Path, page: str) -> None:
    """What is shown is a whole file that the gateway reads."""
    text = (REPOSITORY / "docs" / page / "gateway.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path.write_text(example)
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_EU_KEY", "SPARE_KEY", "OPENAI_API_KEY")
    upstreams = read_upstreams(path, needs_key=True, environment=dict.fromkeys(names, "sk"))
    assert len(upstreams.of("anthropic")) == 2


def test_model_may_be_named_like_itself(path: Path) -> None:
    """So a model is bound to some upstreams without a new name."""
    path.write_text(f'{ROW}[models."claude-opus-5-5"]\nmodel = "claude-opus-5-5"')
    upstreams = read_upstreams(path, needs_key=True, environment=ENVIRONMENT)
    assert upstreams.alias("claude-opus-5-5") == Alias("claude-opus-5-5", "claude-opus-5-5")
