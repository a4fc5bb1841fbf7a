"""A whole training: which traffic it takes, and what it keeps of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tuppence.errors import InvalidTrace
from tuppence.model_router.reference import load_reference
from tuppence.model_router.trainer import (
    DataFile,
    about_weights,
    read_files,
    train_on_files,
    trained_on,
)
from tuppence.model_router.training import save


def _traffic(path: Path, right: Mapping[str, tuple[float, float]], rows: int = 200) -> Path:
    """Write outcomes of models that are right so often on easy and on hard prompts."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(rows):
        hard = number % 2
        scores = {model: float(rng.random() < share[hard]) for model, share in right.items()}
        prompt = f"tell me about the {('weather', 'theorem')[hard]} of {rng.integers(99)}"
        lines.append(json.dumps({"prompt": prompt, "scores": scores}))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_two_models_are_enough(tmp_path: Path) -> None:
    """Traffic without a middle tier has a reference sample; what is not known is NaN there."""
    data = _traffic(tmp_path / "two.jsonl", {"small": (0.9, 0.1), "large": (0.95, 0.95)})
    weights = tmp_path / "weights.npz"
    save(train_on_files([data]), weights)
    reference = load_reference(weights)
    assert len(reference.quality) > 20
    assert np.isfinite(reference.p_right).all()
    assert np.isfinite(reference.quality).all(axis=0).tolist() == [True, False, True]


def test_one_model_is_not_enough(tmp_path: Path) -> None:
    """Traffic of one model cannot tell who does better, which is said before any training."""
    data = _traffic(tmp_path / "one.jsonl", {"only": (0.9, 0.1)})
    told: list[str] = []
    with pytest.raises(InvalidTrace, match="at least two models"):
        train_on_files([data], tell=told.append)
    assert told[-1] == "a classifier for the reference sample"


def test_files_named_alike_are_refused(tmp_path: Path) -> None:
    """Two files would be one source, and the same file twice would count twice."""
    both = {"small": (0.9, 0.1), "large": (0.95, 0.95)}
    paths = [_traffic(tmp_path / day / "traffic.jsonl", both, 2) for day in ("monday", "tuesday")]
    with pytest.raises(InvalidTrace, match="named like another file"):
        read_files(paths)


def test_names_of_sources_keep_their_dots(tmp_path: Path) -> None:
    """Only the ending of a file is no part of its source's name."""
    both = {"small": (0.9, 0.1), "large": (0.95, 0.95)}
    paths = [_traffic(tmp_path / f"traffic.{month}.jsonl", both, 2) for month in ("may", "june")]
    outcomes, files = read_files(paths)
    assert [file.name for file in files] == ["traffic.may", "traffic.june"]
    assert {outcome.source for outcome in outcomes} == {"traffic.may", "traffic.june"}


def test_weights_know_what_they_were_trained_on(tmp_path: Path) -> None:
    """A file is known by its content, and under its name when it was compressed anew."""
    weights = tmp_path / "weights.npz"
    about = {"seed": 1, "files": [DataFile("traffic", 7, "ab")._asdict()]}
    np.savez(weights, about=np.array(json.dumps(about)))
    files = [
        DataFile("renamed", 9, "ab"),
        DataFile("traffic", 7, "cd"),
        DataFile("traffic", 8, "ef"),
    ]
    assert trained_on(files, weights) == ["renamed", "traffic"]


def test_weights_that_do_not_tell(tmp_path: Path) -> None:
    """Weights without a record of their training are known to be trained on nothing."""
    weights = tmp_path / "weights.npz"
    np.savez(weights, table=np.zeros(1))
    assert about_weights(weights).files == ()
