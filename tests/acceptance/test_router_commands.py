"""`tuppence router` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tuppence.entrypoints.cli import cli
from tuppence.testing.answers import text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve


def _run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["router", *arguments], input=stdin, env={"COLUMNS": "100"})


def _json(*arguments: str, stdin: str | None = None) -> Any:
    result = _run(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


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


def test_train_and_evaluate(data: Path, tmp_path: Path) -> None:
    """Weights are trained, measured beside what needs no router, and used by explain."""
    weights = tmp_path / "own.npz"
    trained = _json("train", str(data), "--output", str(weights), "--seed", "5")
    assert (trained["seed"], trained["files"][0]["prompts"]) == (5, 300)
    page, picture = tmp_path / "page.html", tmp_path / "curve.png"
    measured = _json(
        *("evaluate", str(data), "--folds", "2", "--rounds", "5"),
        *("--html", str(page), "--png", str(picture)),
    )
    (source,) = measured["sources"]
    figures = source["figures"]
    assert figures["auc_simple"]["router"]["value"] > 0.8
    assert figures["gap_closed"]["oracle"]["value"] == 1
    assert "<svg" in page.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    own = _json("evaluate", str(data), "--weights", str(weights), "--rounds", "5")
    assert own["pooled"]["outcomes_balanced_accuracy"] > 0.5
    told = _json("explain", "tell me about the theorem of 7", "--weights", str(weights))
    assert told["p_right"]["weak"] < 0.5


def test_tables(data: Path, tmp_path: Path) -> None:
    """Without --json there are tables with all routers and figures."""
    result = _run("evaluate", str(data), "--rounds", "3")
    assert result.exit_code == 0, result.output
    for name in ("APGR", "CPT(80%)", "AIQ", "Oracle", "Known task", "calibration error"):
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
        (("train", "/nowhere.jsonl", "--output", "x.npz"), "cannot be read"),
        (("shadow", "--log", "/nowhere.jsonl"), "holds no comparisons"),
    ],
)
def test_wrong_input(arguments: tuple[str, ...], problem: str) -> None:
    """Wrong input is one error that says what is wrong."""
    result = _run(*arguments)
    assert result.exit_code != 0
    assert problem in str(result.exception)


def test_folds_and_leaving_out_exclude_each_other(data: Path) -> None:
    """The data is divided in one way at a time."""
    result = _run("evaluate", str(data), "--folds", "2", "--leave-one-out")
    assert "leave-one-out" in str(result.exception)


def test_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent, a share to the strongest model too; regret and saving are told."""
    requests, log = tmp_path / "requests.jsonl", tmp_path / "shadow.jsonl"
    rows = [{"prompt": "What is the capital of France?", "expected": "Paris"}] * 3
    requests.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    app = FakeAnthropic()
    texts = ("Paris", "Paris", "Lyon", "The answer is Paris", "Paris", "Paris")
    app.script(*(text_answer(text) for text in texts))
    with serve(app) as base_url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        told = _json("shadow", str(requests), "--log", str(log), "--share", "1")
    assert len(app.book) == 6
    assert told["comparisons"] == 3
    assert told["regret"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    assert told["saving_share"]["value"] > 0.9
    assert told["is_below_floor"] is False
    result = _run("shadow", "--log", str(log))
    assert "quality kept" in result.stdout
    assert "66.7%" in result.stdout


@pytest.mark.parametrize("line", ["{", "[]", '{"expected": "x"}'])
def test_requests_that_are_none(tmp_path: Path, line: str) -> None:
    """A line that is no request is named, and nothing is sent."""
    requests = tmp_path / "requests.jsonl"
    requests.write_text(line, encoding="utf-8")
    result = _run("shadow", str(requests), "--log", str(tmp_path / "log.jsonl"))
    assert "line 1" in str(result.exception)
