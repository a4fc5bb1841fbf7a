"""Held-out predictions beside what came of them: what a quality floor is turned into prices with.

They are stored with the weights: a classifier that has not seen these prompts said `p_right`, and
`quality` is how often the tiers' models were right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidInput
from tuppence.model_router.classifier import WEIGHTS_PATH

Floats = npt.NDArray[np.float32]


class Reference(NamedTuple):
    """Prompts that a classifier had not seen, a row a prompt."""

    p_right: Floats
    """(n, 3): predicted."""
    quality: Floats
    """(n, 3): what came of it."""
    characters: Floats
    """(n,)"""


def reference_arrays(reference: Reference) -> dict[str, npt.NDArray[Any]]:
    """Return a reference as arrays to be stored beside the weights."""
    return {f"reference_{name}": array for name, array in reference._asdict().items()}


def load_reference(path: Path = WEIGHTS_PATH) -> Reference:
    """Return the reference that is stored with weights; raise InvalidInput where none is."""
    with np.load(path) as stored:
        names = [f"reference_{name}" for name in Reference._fields]
        if not set(names) <= set(stored.files):
            raise InvalidInput(
                "holds no reference sample",
                field="classifier",
                value=str(path),
                remedy="name a file that `tuppence router train` has written",
            )
        return Reference(*(stored[name] for name in names))
