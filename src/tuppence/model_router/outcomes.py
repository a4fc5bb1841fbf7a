"""Recorded outcomes: prompts, and how well each model answered them.

One JSON object a line, plain or .gz: `prompt`, and either `scores` {model: 0..1} or `label`, a
tier named by hand (SIMPLE, MEDIUM or MODERATE, COMPLEX or REASONING). `source` names where the
prompt is from, `subset` the task, `lang` the language, `cost` {model: USD} what each answer cost,
`ans` {model: text} its final answer, `out_chars` {model: characters} how long it was.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidInput, InvalidTrace

MOST_MODELS_IN_A_TIER = 6
MOST_MISSING = 0.1
"""A model that answered fewer prompts of a source is left out of its tiers."""

TIER_OF_LABEL: Mapping[str, int] = {
    "SIMPLE": 0,
    "MEDIUM": 1,
    "MODERATE": 1,
    "COMPLEX": 2,
    "REASONING": 2,
}
LABELLED_QUALITY = np.array(
    [[0.97, 0.98, 0.99], [0.50, 0.96, 0.98], [0.20, 0.50, 0.95]], dtype=np.float32
)
"""What a label is taken to say of the weak, middle and strong tier: an order, not a frequency."""
RIGHT_SHARE = 0.6
"""A tier counts as able to answer a prompt when more of its models than this are right."""


class Outcome(NamedTuple):
    """A prompt, and what is known of the answers to it."""

    prompt: str
    source: str
    subset: str
    language: str
    scores: Mapping[str, float]
    cost: Mapping[str, float]
    label: int | None
    """0, 1 or 2 where a person named the tier."""
    answers: Mapping[str, str] = MappingProxyType({})
    """Final answers, where they are recorded."""
    characters: Mapping[str, int] = MappingProxyType({})
    """Of the whole answers, where that is recorded."""


class Targets(NamedTuple):
    """What is to be predicted, a row a prompt."""

    quality: npt.NDArray[np.float32]
    """(n, 3): share of each tier's models that are right; NaN where the tier was not tried."""
    needed: npt.NDArray[np.int64]
    """(n,): the first tier that is able, 2 where none is; -1 where that is not known."""
    source: npt.NDArray[np.int64]
    """(n,): index into `sources`."""
    sources: tuple[str, ...]
    is_labelled: npt.NDArray[np.bool_]
    """(n,): whether a person named the tier, so that there are no outcomes."""


def read_outcomes(path: Path) -> list[Outcome]:
    """Read a file of outcomes; raise InvalidTrace for one that cannot be read."""
    opened = gzip.open if path.suffix == ".gz" else open
    outcomes = []
    line = 0
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for line, text in enumerate(file, 1):  # noqa: B007 - the error names the line
                if text.strip():
                    outcomes.append(_outcome(json.loads(text), path))
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as error:
        raise _invalid(path, f"line {line} is no outcome ({error!r})") from error
    if not outcomes:
        raise _invalid(path, "has no outcome")
    return outcomes


def source_name(path: Path) -> str:
    """Return what the traffic of a file is called: its name without its endings."""
    return Path(path.name.removesuffix(".gz")).stem


def _outcome(row: Mapping[str, Any], path: Path) -> Outcome:
    label = row.get("label")
    scores = {str(model): float(score) for model, score in row.get("scores", {}).items()}
    if label is None and not scores:
        message = "neither scores nor label"
        raise ValueError(message)
    if not all(-1 <= score <= 1 for score in scores.values()):  # penalties go below zero
        message = "a score outside 0..1"
        raise ValueError(message)
    return Outcome(
        prompt=str(row["prompt"]),
        source=str(row.get("source") or source_name(path)),
        subset=str(row.get("subset") or row.get("category") or ""),
        language=str(row.get("lang") or ""),
        scores={model: max(score, 0.0) for model, score in scores.items()},
        cost={str(model): _dollars(cost) for model, cost in (row.get("cost") or {}).items()},
        label=None if label is None else TIER_OF_LABEL[str(label).upper()],
        answers={str(model): str(answer) for model, answer in (row.get("ans") or {}).items()},
        characters={str(one): int(count) for one, count in (row.get("out_chars") or {}).items()},
    )


def _dollars(cost: object) -> float:
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < float("inf"):
        message = "a cost that is no amount of dollars"
        raise ValueError(message)
    return float(cost)


def _invalid(path: Path, problem: str) -> InvalidTrace:
    return InvalidTrace(
        problem,
        field="data",
        value=str(path),
        remedy="give JSON lines with prompt and scores {model: 0..1} or label, plain or .gz",
    )


class TierModels(NamedTuple):
    """Which models stand for the weak, the middle and the strong tier of a source."""

    weak: tuple[str, ...]
    middle: tuple[str, ...]
    strong: tuple[str, ...]


def tier_models(outcomes: Sequence[Outcome]) -> TierModels:
    """Return the models of each tier of one source, by how often they are right.

    The weakest, the middle and the strongest third, at most `MOST_MODELS_IN_A_TIER` each. Of two
    models one is weak and one strong; a single one is strong, since only able ones are tried alone.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for model, score in outcome.scores.items():
            scores[model].append(score)
    enough = (1 - MOST_MISSING) * len(outcomes)
    tried = {model: values for model, values in scores.items() if len(values) >= enough}
    order = sorted(tried, key=lambda model: (sum(tried[model]) / len(tried[model]), model))
    if len(order) < 3:
        return TierModels(tuple(order[:-1]), (), tuple(order[-1:]))
    size = min(MOST_MODELS_IN_A_TIER, len(order) // 3)
    first = len(order) // 2 - size // 2
    return TierModels(tuple(order[:size]), tuple(order[first : first + size]), tuple(order[-size:]))


def targets_of(outcomes: Sequence[Outcome]) -> Targets:
    """Return what is to be predicted for outcomes of one or more sources."""
    sources = tuple(dict.fromkeys(outcome.source for outcome in outcomes))
    by_source: dict[str, list[Outcome]] = {source: [] for source in sources}
    for outcome in outcomes:
        by_source[outcome.source].append(outcome)
    tiers = {source: tier_models(rows) for source, rows in by_source.items()}
    quality = np.array(
        [_quality(outcome, tiers[outcome.source]) for outcome in outcomes], dtype=np.float32
    ).reshape(-1, 3)
    labels = np.array([-1 if row.label is None else row.label for row in outcomes])
    return Targets(
        quality,
        np.where(labels >= 0, labels, _needed(quality)),
        np.array([sources.index(outcome.source) for outcome in outcomes]),
        sources,
        labels >= 0,
    )


def targets_of_pair(
    outcomes: Sequence[Outcome], targets: Targets, weak: str, strong: str
) -> Targets:
    """Return targets of two models in place of the tiers of each source; what is labelled stays.

    Raises InvalidInput for a model without outcomes.
    """
    models = {model for outcome in outcomes for model in outcome.scores}
    for field, name in (("weak", weak), ("strong", strong)):
        if name not in models:
            raise InvalidInput(
                "is no model of the data",
                field=field,
                value=name,
                remedy=f"choose of {', '.join(sorted(models)) or 'a file with scores'}",
            )
    nothing = float("nan")
    quality = np.array(
        [
            (one.scores.get(weak, nothing), nothing, one.scores.get(strong, nothing))
            for one in outcomes
        ],
        dtype=np.float32,
    )
    needed = np.where(targets.is_labelled, targets.needed, -1)
    return targets._replace(quality=quality, needed=needed)


def _quality(outcome: Outcome, tiers: TierModels) -> list[float]:
    if outcome.label is not None:
        return [float(share) for share in LABELLED_QUALITY[outcome.label]]
    return [
        _mean(outcome.scores[model] for model in tier if model in outcome.scores) for tier in tiers
    ]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")


def _needed(quality: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    weak, middle, _ = quality.T
    needed = np.where(weak > RIGHT_SHARE, 0, np.where(middle > RIGHT_SHARE, 1, 2))
    return np.where(np.isnan(quality).any(axis=1), -1, needed)
