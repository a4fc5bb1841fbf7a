"""`tuppence router` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tuppence.core.periods import Span
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.entrypoints.cli import cli
from tuppence.errors import InvalidTrace, UnknownPrice
from tuppence.testing.answers import Failure, Gate, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

UTC = ZoneInfo("UTC")


def _run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["router", *arguments], input=stdin, env={"COLUMNS": "100"})


def _json(*arguments: str, stdin: str | None = None) -> Any:
    result = _run(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout, parse_constant=pytest.fail)  # Infinity and NaN are no JSON


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded traffic in which weak models fail at mathematics."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "traffic.jsonl"
    rows = []
    for number in range(300):
        hard = bool(number % 2)
        word = "theorem" if hard else "weather"
        right = {"small": 0.1 if hard else 0.9, "medium": 0.5 if hard else 0.9, "large": 0.95}
        scores = {model: float(rng.random() < share) for model, share in right.items()}
        row = {"prompt": f"tell me about the {word} of {rng.integers(99)}", "scores": scores}
        rows.append(json.dumps({**row, "subset": word}))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_explain() -> None:
    """A prompt's model, the tiers' probabilities and costs, and the reason."""
    result = _run("explain", "What is the capital of France?")
    assert result.exit_code == 0
    assert "claude-haiku-5-5" in result.stdout
    assert "simple" in result.stdout
    told = _json("explain", "Prove that there are infinitely many primes.")
    assert (told["model"], told["complexity"]) == ("claude-opus-5-5", "complex")
    assert set(told["p_right"]) == {"weak", "middle", "strong"}


def test_explain_reads_from_standard_input(tmp_path: Path) -> None:
    """A dash reads a prompt or a whole request; models that cannot take it are named."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        '[[model]]\nid = "claude-haiku-5-5"\ntier = "weak"\nimages = false\n'
        '[[model]]\nid = "claude-opus-5-5"\ntier = "strong"\n',
        encoding="utf-8",
    )
    request = {"messages": [{"role": "user", "content": [{"type": "image"}]}]}
    told = _json("explain", "-", "--tiers", str(tiers), stdin=json.dumps(request))
    assert told["excluded"] == {"claude-haiku-5-5": "no images"}
    result = _run("explain", "-", "--tiers", str(tiers), stdin=json.dumps(request))
    assert "claude-haiku-5-5 cannot take it: no images" in result.stdout
    assert _json("explain", "-", stdin="hello")["complexity"] == "simple"
    assert _json("explain", "-", stdin="[" * 100_000)["model"]  # no request, so a prompt


def test_train_and_evaluate(data: Path, tmp_path: Path) -> None:
    """Weights are trained, measured beside what needs no router, and used by explain."""
    weights = tmp_path / "own.npz"
    trained = _json("train", str(data), "--output", str(weights), "--seed", "5")
    assert (trained["seed"], trained["files"][0]["prompts"]) == (5, 300)
    page, picture = tmp_path / "page.html", tmp_path / "curve.png"
    measured = _json(
        *("evaluate", str(data), "--folds", "2", "--rounds", "50"),
        *("--html", str(page), "--png", str(picture)),
    )
    (source,) = measured["sources"]
    figures = source["figures"]
    assert figures["auc_simple"]["router"]["value"] > 0.8
    assert figures["gap_closed"]["oracle"]["value"] == 1
    assert "<svg" in page.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert measured["trained_on"] == []
    own = _json("evaluate", str(data), "--weights", str(weights), "--rounds", "50")
    assert own["pooled"]["outcomes"]["balanced_accuracy"]["router"]["low"] > 0.5
    assert own["trained_on"] == ["traffic"]
    result = _run("evaluate", str(data), "--weights", str(weights), "--rounds", "50")
    assert "* the classifier was trained on this" in result.stdout
    told = _json("explain", "tell me about the theorem of 7", "--weights", str(weights))
    assert told["p_right"]["weak"] < 0.5


def test_traffic_of_two_models(data: Path, tmp_path: Path) -> None:
    """Where the middle tier was never tried, weights are of use all the same."""
    two, weights = tmp_path / "two.jsonl", tmp_path / "two.npz"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["scores"]["medium"]
    two.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _json("train", str(two), "--output", str(weights))
    hard, easy = (
        _json("explain", f"tell me about the {word} of 7", "--weights", str(weights))
        for word in ("theorem", "weather")
    )
    assert hard["p_right"]["weak"] < easy["p_right"]["weak"]
    assert hard["tier"] == "strong"


def test_tables(data: Path, tmp_path: Path) -> None:
    """Without --json there are tables with all routers and figures."""
    result = _run("evaluate", str(data), "--rounds", "50")
    assert result.exit_code == 0, result.output
    for name in ("APGR", "CPT(80%)", "AIQ", "Oracle", "Task", "calibration error"):
        assert name in result.stdout
    result = _run("train", str(data), "--output", str(tmp_path / "w.npz"))
    assert "traffic" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("explain", "x", "--tiers", "none"), "is not a set of tiers"),
        (("explain", "x", "--quality", "2"), "quality"),
        (("explain", "x", "--weights", "/nowhere.npz"), "holds no weights"),
        (("evaluate", "/nowhere.jsonl"), "cannot be read"),
        (("train", "/nowhere.jsonl", "--output", "/nowhere/x.npz"), "cannot be written"),
        (("cascade", "/nowhere.jsonl", "--quality", "7"), "quality"),
        (("cascade", "/nowhere.jsonl", "--quality", "nan"), "quality"),
        (("shadow", "--log", "/nowhere.jsonl"), "holds no comparisons"),
        (("shadow", "--log", "/nowhere.jsonl", "--floor", "7"), "floor"),
    ],
)
def test_wrong_input(arguments: tuple[str, ...], problem: str) -> None:
    """Wrong input is one error that says what is wrong."""
    result = _run(*arguments)
    assert result.exit_code != 0
    assert problem in str(result.exception)


def test_train_tries_its_files_first(tmp_path: Path) -> None:
    """Data that cannot be read leaves no file behind, and an older one as it was."""
    output = tmp_path / "x.npz"
    assert "cannot be read" in str(_run("train", "/none", "--output", str(output)).exception)
    assert not output.exists()
    output.write_bytes(b"older")
    assert "cannot be read" in str(_run("train", "/none", "--output", str(output)).exception)
    assert output.read_bytes() == b"older"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded final answers of two cheap models and a strong one."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    right = {"claude-haiku-5-5": 0.6, "claude-sonnet-5-5": 0.7, "claude-opus-5-5": 0.95}
    rows = []
    for number in range(100):
        scores = {model: float(rng.random() < share) for model, share in right.items()}
        said = {model: str(number if score else -number) for model, score in scores.items()}
        row = {"prompt": f"What is {number}?", "scores": scores, "ans": said}
        rows.append(json.dumps({**row, "out_chars": dict.fromkeys(right, 40)}))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_cascade(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of cheap models beside the strongest, in the reader's language."""
    (first, second) = _json("cascade", str(answers))
    assert {first["first"], second["first"]} == {"claude-haiku-5-5", "claude-sonnet-5-5"}
    assert "all calls counted" in _run("cascade", str(answers)).stdout
    result = _run("cascade", str(answers), "--strongest", "nope")
    assert "claude-opus-5-5" in str(result.exception)
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "zh_TW")
    assert "級聯" in _run("cascade", str(answers)).stdout


def test_evaluate_a_pair(data: Path) -> None:
    """Two models of the data are measured in place of tiers; they have no classes."""
    arguments = ("evaluate", str(data), "--weak", "small", "--strong", "large", "--rounds", "50")
    (source,) = _json(*arguments)["sources"]
    assert source["tiers"] == {"weak": ["small"], "middle": [], "strong": ["large"]}
    assert source["figures"]["apgr"]["oracle"]["value"] > 0.7
    assert "no classes" in _run(*arguments).stdout


def test_evaluate_labels(tmp_path: Path) -> None:
    """Labels have a table of classes, beside the outcomes' own, and both are summed up."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        rows = [{"prompt": f"{path}{n}", "label": ("SIMPLE", "COMPLEX")[n % 2]} for n in range(20)]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = _run("evaluate", *map(str, paths), "--rounds", "50")
    assert "recall SIMPLE" in result.stdout
    assert "APGR" not in result.stdout
    assert "All sources with labels" in result.stdout
    paths[0].write_text('{"prompt": "a", "scores": {"m": 1}}', encoding="utf-8")
    assert "one: 1 prompts; nothing to measure" in _run("evaluate", *map(str, paths)).stdout
    assert "All sources with outcomes" not in result.stdout


def test_evaluate_fits_a_terminal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns no line is wrapped; a wide terminal has all intervals; in both languages."""
    for language in ("en", "zh_TW"):
        monkeypatch.setenv("TUPPENCE_LANGUAGE", language)
        narrow, wide = (
            CliRunner()
            .invoke(
                cli, ["router", "evaluate", str(data), "--rounds", "50"], env={"COLUMNS": width}
            )
            .stdout
            for width in ("80", "150")
        )
        assert [line.count("[") for line in narrow.splitlines() if "APGR" in line] == [1]
        assert [line.count("[") for line in wide.splitlines() if "APGR" in line] == [5]
        assert len(narrow.splitlines()) == len(wide.splitlines())
    assert "校準誤差" in narrow
    assert "Router" not in narrow


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--folds", "2", "--leave-one-out"), "leave-one-out"),
        (("--leave-one-out",), "is the only source"),
        (("--folds", "2", "--weights", "own.npz"), "which train their own"),
        (("--weak", "small"), "are no pair"),
        (("--weak", "small", "--strong", "small"), "are no pair"),
        (("--weak", "small", "--strong", "none"), "is no model of the data"),
        (("--png", "curve.jpg"), "is no PNG file"),
        (("--png", "/nowhere/curve.png"), "cannot be written"),
        (("--html", "/nowhere/page.html"), "cannot be written"),
        (("--rounds", "49"), "rounds"),
    ],
)
def test_options_of_evaluate_that_cannot_be(
    data: Path, options: tuple[str, ...], problem: str
) -> None:
    """What excludes each other, is missing or cannot be written is refused."""
    result = _run("evaluate", str(data), *options)
    assert result.exit_code != 0
    assert problem in f"{result.exception} {result.output}"


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """Return the address of a ledger of this test's own."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAnthropic]:
    """Serve a provider that the commands send to."""
    app = FakeAnthropic()
    with serve(app) as base_url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        yield app


def _requests(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


CAPITAL = {"prompt": "What is the capital of France?", "expected": "Paris"}


def test_shadow(tmp_path: Path, provider: FakeAnthropic, ledger: str) -> None:
    """Requests are sent, a share to the strongest model too; regret and saving are told."""
    requests, log = _requests(tmp_path, *[CAPITAL] * 3), str(tmp_path / "shadow.jsonl")
    texts = ("Paris", "Paris", "Lyon", "The answer is Paris", "Paris", "Paris")
    provider.script(*(text_answer(text) for text in texts))
    told = _json("shadow", requests, "--log", log, "--share", "1", "--database", ledger)
    assert len(provider.book) == 6
    assert (told["requests"], told["answered"], told["comparisons"]) == (3, 3, 3)
    assert told["regret"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    assert told["saving_share"]["value"] > 0.9
    assert told["is_below_floor"] is False
    result = _run("shadow", "--log", log)
    assert "quality kept" in result.stdout
    assert "66.7%" in result.stdout


def test_shadow_is_booked(tmp_path: Path, provider: FakeAnthropic, ledger: str) -> None:
    """Every call that was paid for is in the ledger, judges included, under team and project."""
    requests = _requests(tmp_path, {"prompt": CAPITAL["prompt"]})
    provider.script(*(text_answer(text) for text in ("Paris", "Lyon", "A", "B")))
    provider.script(*(text_answer(text) for text in ("Paris", "Lyon", "A", "B")))
    arguments = ("shadow", requests, "--log", str(tmp_path / "log.jsonl"), "--share", "1")
    _json(*arguments, "--database", ledger, "--team", "research", "--project", "routing")
    with Ledger.open(ledger) as opened:
        only = (("team", ("research",)), ("project", ("routing",)))
        rows, total = opened.summary(SummaryQuery(("model",), Span(None, None), UTC, only))
    assert total.request_count == len(provider.book) == 4  # routed, strongest, judge twice
    assert {row.keys[0] for row in rows} == {
        "claude-haiku-5-5",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
    }


def test_shadow_goes_on_after_a_failure(
    tmp_path: Path, provider: FakeAnthropic, ledger: str
) -> None:
    """A request that fails is told and kept for another time; the others are sent and reported."""
    rest = tmp_path / "rest.jsonl"
    other = {"prompt": "What is the capital of Italy?", "expected": "Rome"}
    requests = _requests(tmp_path, CAPITAL, other, CAPITAL)
    paris = text_answer("Paris")
    provider.script(paris, paris, Failure(status=400), paris, paris)
    arguments = ("--share", "1", "--database", ledger, "--unanswered", str(rest))
    result = _run("shadow", requests, "--log", str(tmp_path / "log.jsonl"), *arguments)
    assert result.exit_code == 1
    assert "2 comparisons" in result.stdout
    assert "* 1 of 3 requests got no answer" in result.stdout
    assert json.loads(rest.read_text(encoding="utf-8")) == other


def test_shadow_goes_on_after_a_request_that_cannot_be_sent(
    tmp_path: Path, provider: FakeAnthropic, ledger: str
) -> None:
    """A request that no model can take fails by itself."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        '[[model]]\nid = "claude-haiku-5-5"\ntier = "weak"\ncontext_window = 3000\n',
        encoding="utf-8",
    )
    requests = _requests(tmp_path, {"prompt": "word " * 5_000}, CAPITAL)
    arguments = ("--tiers", str(tiers), "--database", ledger, "--json")
    result = _run("shadow", requests, "--log", str(tmp_path / "log.jsonl"), *arguments)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["answered"], len(provider.book)) == (1, 1, 1)
    assert "context" in told["failures"][0]


def test_shadow_stops_where_the_key_is_not_accepted(
    tmp_path: Path, provider: FakeAnthropic, ledger: str
) -> None:
    """A key that one request was refused with is not tried on the others."""
    provider.script(Failure(status=401))
    requests = _requests(tmp_path, CAPITAL, CAPITAL)
    arguments = ("--log", str(tmp_path / "log.jsonl"), "--database", ledger, "--json")
    result = _run("shadow", requests, *arguments)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["requests"], told["answered"], len(told["failures"])) == (2, 0, 1)
    assert not provider.book


def test_shadow_interrupted(tmp_path: Path, provider: FakeAnthropic, ledger: str) -> None:
    """Ctrl-C ends it with one line; what was paid for is booked, the rest is kept."""
    rest, gate = tmp_path / "rest.jsonl", Gate()
    provider.script(text_answer("Paris"), text_answer("Paris", gate=gate))
    requests = _requests(tmp_path, CAPITAL, CAPITAL)
    arguments = ("--share", "1e-9", "--database", ledger, "--unanswered", str(rest))
    log = str(tmp_path / "log.jsonl")
    command = [sys.executable, "-m", "tuppence", "router", "shadow", requests, "--log", log]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert gate.reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    gate.open()
    assert process.returncode == 130
    assert said.strip() == "interrupted; what was booked so far stays booked"
    assert json.loads(rest.read_text(encoding="utf-8")) == CAPITAL
    with Ledger.open(ledger) as opened:
        _, total = opened.summary(SummaryQuery(("model",), Span(None, None), UTC, ()))
    assert total.request_count == 1


@pytest.mark.parametrize("rows", [[], [CAPITAL]], ids=["no request", "none drawn"])
def test_shadow_without_any_comparison(
    tmp_path: Path, provider: FakeAnthropic, ledger: str, rows: list[dict[str, Any]]
) -> None:
    """Where nothing was compared that is what is reported, though there is no log."""
    arguments = ("--log", str(tmp_path / "log.jsonl"), "--share", "1e-9", "--database", ledger)
    told = _json("shadow", _requests(tmp_path, *rows), *arguments)
    assert told["comparisons"] == 0
    assert told["answered"] == len(provider.book) == len(rows)
    assert told["regret"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("option", ["--log", "--unanswered"])
def test_shadow_pays_for_nothing_that_it_cannot_write_down(
    tmp_path: Path, provider: FakeAnthropic, ledger: str, option: str
) -> None:
    """A file that cannot be written is refused before the first call."""
    files = {"--log": str(tmp_path / "log.jsonl"), option: str(tmp_path / "none" / "x.jsonl")}
    arguments = [part for pair in files.items() for part in pair]
    result = _run("shadow", _requests(tmp_path, CAPITAL), "--database", ledger, *arguments)
    assert "cannot be written" in str(result.exception)
    assert not provider.book
    assert not (tmp_path / "log.jsonl").exists()


def test_shadow_with_a_judge_that_nobody_knows(tmp_path: Path, provider: FakeAnthropic) -> None:
    """A misspelt judge is refused before the answers that it would judge are paid for."""
    arguments = ("--log", str(tmp_path / "log.jsonl"), "--judge", "claude-typo")
    result = _run("shadow", _requests(tmp_path, CAPITAL), *arguments)
    assert isinstance(result.exception, UnknownPrice)
    assert not provider.book


def test_shadow_in_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is read in the language of the settings."""
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "zh_TW")
    log = tmp_path / "log.jsonl"
    log.touch()
    result = _run("shadow", "--log", str(log))
    assert "保持的品質" in result.stdout
    assert "quality" not in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"expected": "x"}',
        '{"prompt": 5}',
        '{"prompt": " "}',
        '{"prompt": "x", "check": "abc"}',
        '{"messages": 3}',
        "[" * 100_000,
    ],
)
def test_requests_that_are_none(tmp_path: Path, line: str) -> None:
    """A line that is no request is named, and nothing is sent."""
    requests = tmp_path / "requests.jsonl"
    requests.write_text(line, encoding="utf-8")
    result = _run("shadow", str(requests), "--log", str(tmp_path / "log.jsonl"))
    assert isinstance(result.exception, InvalidTrace)
    assert "line 1" in str(result.exception)
