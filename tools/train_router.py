"""Train the router that ships with the package: `make train-router DATA=directory`.

Only files whose licence allows it are used. The same files and seed give the same weights on the
same machine; docs/reference/router-model-card.md names what the weights in the repository are of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.trainer import train_on_files
from tuppence.model_router.training import save

SEED = 0
PERMISSIVE = (
    "routellm_mmlu",
    "mmlu_pro",
    "llmrouter_nim",
    "routerbench_subset",
    "lawbench_zh",
    "zeroeval_math_l5",
    "gaokao_gpt4",
    "halluqa_mc",
    "uncommonroute_labels",
)
"""Apache-2.0 or MIT at their origins; see the model card."""


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory with the files of outcomes")
    parser.add_argument("--output", type=Path, default=WEIGHTS_PATH)
    arguments = parser.parse_args()
    paths = [arguments.data / f"{name}.jsonl.gz" for name in PERMISSIVE]
    save(train_on_files(paths, seed=SEED, tell=print), arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
