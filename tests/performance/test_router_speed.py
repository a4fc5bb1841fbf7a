"""Classifying prompts beside the same features in scikit-learn, in the same run."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.pipeline import FeatureUnion

from tuppence.model_router.classifier import load_classifier
from tuppence.model_router.features import BUCKETS, NGRAM_SIZES

LONGEST = 3_000
PROMPTS = 1_000


def _prompts(shared_data: Path, shortest: int = 0) -> list[str]:
    """Return real prompts of up to 3,000 characters, English and Chinese."""
    rows: list[str] = []
    for path in sorted((shared_data / "routing").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows += [json.loads(line)["prompt"] for line in file]
    fitting = [row for row in rows if shortest <= len(row) <= LONGEST]
    return [fitting[n] for n in np.random.default_rng(0).permutation(len(fitting))[:PROMPTS]]


def _microseconds(function: Callable[[str], Any], prompts: list[str]) -> tuple[float, float]:
    """Return the median and the 99th percentile of one call."""
    for prompt in prompts[:50]:
        function(f"{prompt} ")  # another text: a text that comes again costs nothing
    taken = []
    for prompt in prompts:
        begun = time.perf_counter()
        function(prompt)
        taken.append(time.perf_counter() - begun)
    median, slow = np.percentile(taken, [50, 99]) * 1e6
    return float(median), float(slow)


def _scikit_learn() -> Callable[[str], Any]:
    """Return hashed n-grams of the same sizes, words and pairs of words, and one linear model."""
    characters = [
        (f"char{size}", _hashing(analyzer="char", ngram_range=(size, size))) for size in NGRAM_SIZES
    ]
    union = FeatureUnion([*characters, ("words", _hashing(ngram_range=(1, 2)))])
    weights = np.ones((BUCKETS * (len(NGRAM_SIZES) + 1), 13), dtype=np.float32)
    return lambda prompt: union.transform([prompt]) @ weights


def _hashing(**options: Any) -> HashingVectorizer:
    return HashingVectorizer(
        n_features=BUCKETS, binary=True, alternate_sign=False, dtype=np.float32, **options
    )


def test_classifying_a_prompt(
    benchmark: Any, figure: Callable[..., None], shared_data: Path
) -> None:
    """Up to 3,000 characters: p50 at most 0.2 ms, p99 1 ms, five times as fast as scikit-learn."""
    classifier = load_classifier()
    peer = _scikit_learn()
    for name, shortest in (("up to 3,000 characters", 0), ("2,000 to 3,000 characters", 2_000)):
        prompts = _prompts(shared_data, shortest)
        median, slow = _microseconds(classifier.predict, prompts)
        other, _ = _microseconds(peer, prompts[:200])
        figure(f"classify, {name}, p50", f"{median / 1000:.3f} ms", "target 0.2 ms")
        figure(f"classify, {name}, p99", f"{slow / 1000:.3f} ms", "target 1 ms")
        figure("  scikit-learn takes", f"{other / median:.1f}x", "target 5x")
    benchmark(classifier.predict, prompts[0])


def test_classifying_a_megabyte(figure: Callable[..., None]) -> None:
    """1 MB: at most 20 ms, whatever it is made of."""
    classifier = load_classifier()
    for name, text in (
        ("words", "word " * 200_000),
        ("one line", "x" * 1_000_000),
        ("Chinese", "幫我總結這篇文章。" * 111_111),
        ("lines", "(A) 1\n" * 166_666),
    ):
        median, _ = _microseconds(classifier.predict, [text] * 9)
        figure(f"classify 1 MB of {name}", f"{median / 1000:.2f} ms", "target 20 ms")


def test_loading(figure: Callable[..., None]) -> None:
    """The classifier loads in 0.3 s, beside what importing numpy takes."""
    program = (
        "import time, numpy; begun = time.perf_counter();"
        "from tuppence.model_router.classifier import load_classifier;"
        "load_classifier().predict('x'); print(time.perf_counter() - begun)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    figure("load the classifier", f"{float(ran.stdout) * 1000:.0f} ms", "target 300 ms")
