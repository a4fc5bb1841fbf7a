"""A whole training: from files of outcomes to the arrays that a router loads.

Beside the weights they hold a reference sample (`reference.py`) and what they were made from, so
that the same files, seed and machine give the same weights again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidTrace
from tuppence.model_router.classifier import WEIGHTS_PATH, Classifier
from tuppence.model_router.outcomes import Outcome, read_outcomes
from tuppence.model_router.reference import Reference, reference_arrays
from tuppence.model_router.training import Prepared, Progress, prepare, train

HELD_OUT_SHARE = 0.2
MOST_REFERENCE_ROWS = 4_000
FEWEST_OUTCOMES = 100

Arrays = dict[str, npt.NDArray[Any]]


class DataFile(NamedTuple):
    """A file that weights were trained on."""

    name: str
    prompts: int
    sha256: str


class About(NamedTuple):
    """What weights were made from."""

    seed: int
    files: tuple[DataFile, ...]


def read_files(paths: Sequence[Path]) -> tuple[list[Outcome], tuple[DataFile, ...]]:
    """Read files of outcomes; each file is a source of its own. Raises InvalidTrace."""
    outcomes, files = [], []
    for path in paths:
        name = path.name.split(".")[0]
        rows = [row._replace(source=name) for row in read_outcomes(path)]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(DataFile(name, len(rows), digest))
        outcomes += rows
    return outcomes, tuple(files)


def train_on_files(
    paths: Sequence[Path], *, seed: int = 0, tell: Progress = lambda _: None
) -> Arrays:
    """Return the arrays of a router trained on files; raise InvalidTrace for too few outcomes."""
    tell("reading")
    outcomes, files = read_files(paths)
    if len(outcomes) < FEWEST_OUTCOMES:
        raise InvalidTrace(
            f"has {len(outcomes)} outcomes, too few to learn from",
            field="data",
            value=", ".join(map(str, paths)),
            remedy=f"give at least {FEWEST_OUTCOMES}; thousands are better",
        )
    tell("features")
    prepared = prepare(outcomes)
    tell("a classifier for the reference sample")
    reference = held_out(outcomes, prepared, seed=seed)
    arrays = train(prepared, np.arange(len(outcomes)), seed=seed, tell=tell)
    about = json.dumps({"seed": seed, "files": [file._asdict() for file in files]})
    return {**arrays, **reference_arrays(reference), "about": np.array(about)}


def held_out(outcomes: Sequence[Outcome], prepared: Prepared, *, seed: int) -> Reference:
    """Train on most of the outcomes and return what that says of the others."""
    rng = np.random.default_rng(seed)
    is_held_out = rng.random(len(outcomes)) < HELD_OUT_SHARE
    classifier = Classifier(train(prepared, np.flatnonzero(~is_held_out), seed=seed))
    is_known = ~np.isnan(prepared.targets.quality).any(axis=1)
    if not prepared.targets.is_labelled.all():
        is_known &= ~prepared.targets.is_labelled
    rows = np.flatnonzero(is_held_out & is_known)
    if len(rows) > MOST_REFERENCE_ROWS:
        rows = np.sort(rng.choice(rows, MOST_REFERENCE_ROWS, replace=False))
    said = [classifier.predict(outcomes[int(row)].prompt).p_right for row in rows]
    return Reference(
        np.array(said, dtype=np.float32).reshape(-1, 3),
        prepared.targets.quality[rows],
        np.array([len(outcomes[int(row)].prompt) for row in rows], dtype=np.float32),
    )


def about_weights(path: Path = WEIGHTS_PATH) -> About:
    """Return what weights were made from."""
    with np.load(path) as stored:
        said = json.loads(str(stored["about"]))
    return About(said["seed"], tuple(DataFile(**file) for file in said["files"]))
