"""Training: what is learned can be seen, is the same again, and is loaded as it was saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.classifier import Classifier, load_classifier
from tuppence.model_router.metrics import auc, calibration_error
from tuppence.model_router.reference import load_reference
from tuppence.model_router.trainer import about_weights, train_on_files
from tuppence.model_router.training import save

HARD_WORDS = ("prove", "theorem", "integral", "lemma")
EASY_WORDS = ("weather", "hello", "colour", "lunch")


def _prompt(rng: np.random.Generator, *, hard: bool) -> str:
    words = rng.choice(["the", "of", "please", "tell", "me", "now", "about", "some"], 12).tolist()
    words[int(rng.integers(12))] = str(rng.choice(HARD_WORDS if hard else EASY_WORDS))
    return " ".join(words)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Traffic in which weak models fail at mathematics, and some labels."""
    rng = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("outcomes")
    rows, labels = [], []
    for number in range(900):
        hard = bool(number % 2)
        right = {"weak": 0.1 if hard else 0.9, "middle": 0.5 if hard else 0.9, "strong": 0.9}
        scores = {model: float(rng.random() < share) for model, share in right.items()}
        rows.append({"prompt": _prompt(rng, hard=hard), "scores": scores, "subset": str(hard)})
    for number in range(200):
        hard = bool(number % 2)
        label = "COMPLEX" if hard else "SIMPLE"
        labels.append({"prompt": _prompt(rng, hard=hard), "label": label})
    paths = [directory / "traffic.jsonl", directory / "labels.jsonl"]
    for path, written in zip(paths, (rows, labels), strict=True):
        path.write_text("\n".join(map(json.dumps, written)), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def trained(files: list[Path]) -> dict[str, np.ndarray]:
    """A trained classifier's arrays."""
    told: list[str] = []
    arrays = train_on_files(files, seed=3, tell=told.append)
    assert told[0] == "reading"
    return arrays


def test_what_is_learned_can_be_seen(trained: dict[str, np.ndarray]) -> None:
    """On new prompts weak models' failures are predicted, in order and in size."""
    classifier = Classifier(trained)
    rng = np.random.default_rng(1)
    is_hard = rng.random(400) < 0.5
    said = [classifier.predict(_prompt(rng, hard=bool(hard))) for hard in is_hard]
    weak = np.array([one.weak for one in said])
    assert auc(-weak, is_hard) > 0.95
    assert calibration_error(weak, np.where(is_hard, 0.1, 0.9)) < 0.1
    assert np.mean([one.strong for one in said]) > 0.8
    chosen = np.array([int(np.argmax(one.needs)) for one in said])
    assert ((chosen > 0) == is_hard).mean() > 0.9


def test_the_same_seed_gives_the_same_weights(
    files: list[Path], trained: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Files and seed determine every byte; what they were is kept with the weights."""
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    save(trained, one)
    save(train_on_files(files, seed=3), other)
    assert one.read_bytes() == other.read_bytes()
    about = about_weights(one)
    assert about.seed == 3
    assert [(file.name, file.prompts) for file in about.files] == [
        ("traffic", 900),
        ("labels", 200),
    ]
    assert all(len(file.sha256) == 64 for file in about.files)


def test_saved_weights_are_loaded(trained: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A file of weights predicts what was trained, and holds its reference sample."""
    path = tmp_path / "weights.npz"
    save(trained, path)
    text = "prove the theorem"
    assert load_classifier(path).predict(text) == Classifier(trained).predict(text)
    reference = load_reference(path)
    assert 100 < len(reference.p_right) < 300
    assert np.abs(reference.p_right.mean(axis=0) - reference.quality.mean(axis=0)).max() < 0.12


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    """A handful of outcomes is refused."""
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps({"prompt": "a", "scores": {"m": 1}}), encoding="utf-8")
    with pytest.raises(InvalidTrace, match="too few"):
        train_on_files([path])


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes) -> None:
    """A file that holds no weights is refused, whatever is in it."""
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="holds no weights"):
        load_classifier(path)


def test_weights_of_another_format(trained: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Weights of a later version are refused by their format, and incomplete ones too."""
    path = tmp_path / "weights.npz"
    save({**trained, "format": np.array(99)}, path)
    with pytest.raises(InvalidInput, match="format 99"):
        load_classifier(path)
    other = tmp_path / "other.npz"
    save({name: array for name, array in trained.items() if name != "table"}, other)
    with pytest.raises(InvalidInput, match="holds no weights"):
        load_classifier(other)
