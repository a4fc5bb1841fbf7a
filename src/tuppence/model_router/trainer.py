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
from tuppence.model_router.outcomes import Outcome, Targets, read_outcomes, source_name
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
    """Read files of outcomes; each file is a source of its own.

    Raises InvalidTrace for a file that cannot be read, and for two that are named alike.
    """
    outcomes: list[Outcome] = []
    files: list[DataFile] = []
    for path in paths:
        name = source_name(path)
        if name in {file.name for file in files}:
            raise InvalidTrace(
                f"is named like another file: both would be the source {name}",
                field="data",
                value=str(path),
                remedy="give each file once, and other names to files of other traffic",
            )
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
    """Train on most of the outcomes and return what that says of the others.

    Of those only prompts count whose weak and strong outcomes are known; the middle may be NaN.
    Raises InvalidTrace where there is none.
    """
    rng = np.random.default_rng(seed)
    is_held_out = rng.random(len(outcomes)) < HELD_OUT_SHARE
    rows = np.flatnonzero(is_held_out & _tells_a_gain(prepared.targets))
    if not len(rows):
        raise InvalidTrace(
            "tells of no prompt how both a weak and a strong model did",
            field="data",
            value=", ".join(prepared.targets.sources),
            remedy="give scores of at least two models for each prompt of a file, or labels",
        )
    classifier = Classifier(train(prepared, np.flatnonzero(~is_held_out), seed=seed))
    if len(rows) > MOST_REFERENCE_ROWS:
        rows = np.sort(rng.choice(rows, MOST_REFERENCE_ROWS, replace=False))
    said = [classifier.predict(outcomes[int(row)].prompt).p_right for row in rows]
    return Reference(
        np.array(said, dtype=np.float32).reshape(-1, 3),
        prepared.targets.quality[rows],
        np.array([len(outcomes[int(row)].prompt) for row in rows], dtype=np.float32),
    )


def _tells_a_gain(targets: Targets) -> npt.NDArray[np.bool_]:
    """Return which prompts have a weak and a strong outcome; labels only where no other has."""
    is_known: npt.NDArray[np.bool_] = np.isfinite(targets.quality[:, 2] - targets.quality[:, 0])
    is_measured = is_known & ~targets.is_labelled
    return is_measured if is_measured.any() else is_known


def about_weights(path: Path = WEIGHTS_PATH) -> About:
    """Return what weights were made from; no files where they do not tell."""
    with np.load(path) as stored:
        if "about" not in stored.files:
            return About(0, ())
        said = json.loads(str(stored["about"]))
    return About(said["seed"], tuple(DataFile(**file) for file in said["files"]))


def trained_on(files: Sequence[DataFile], weights: Path = WEIGHTS_PATH) -> list[str]:
    """Return the names of the files that weights were trained on, whole; renamed ones too."""
    known = about_weights(weights).files
    hashes = {file.sha256 for file in known}
    contents = {(file.name, file.prompts) for file in known}  # the same, compressed anew
    return [
        file.name
        for file in files
        if file.sha256 in hashes or (file.name, file.prompts) in contents
    ]
