"""Tell how often the router decides alike about a prompt that is written in another way.

`python tools/check_rewritings.py DATA.jsonl.gz ...`: mechanical rewritings of every prompt (or
--prompts of them, drawn with a seed), and Traditional for Simplified Chinese where the package
`opencc` is installed. The figures stand in docs/reference/router-model-card.md.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.outcomes import read_outcomes
from tuppence.model_router.router import ModelRouter

Rewriting = Callable[[str], str]
Decision = tuple[TaskComplexity, str]

SYNONYMS = {
    "big": "large",
    "show": "display",
    "get": "obtain",
    "make": "create",
    "use": "employ",
    "find": "determine",
    "begin": "start",
    "explain": "describe",
    "give": "provide",
}
TYPING_ERRORS = 0.03
_WORD = re.compile(r"\b(" + "|".join(SYNONYMS) + r")\b")
_LONG_WORD = re.compile(r"(\w)(\w)(\w{3,})")


def _with_typing_errors(text: str) -> str:
    drawing = random.Random(len(text))  # noqa: S311 - a sample, no secret

    def mistyped(match: re.Match[str]) -> str:
        first, second, rest = match.groups()
        return second + first + rest if drawing.random() < TYPING_ERRORS else match[0]

    return _LONG_WORD.sub(mistyped, text)


REWRITINGS: Mapping[str, Rewriting] = {
    "please": lambda text: f"Please {text[:1].lower()}{text[1:]}",
    "hi": lambda text: f"Hi, {text}",
    "thank you": lambda text: f"{text}\nThank you!",
    "upper case": str.upper,
    "lower case": str.lower,
    "doubled spaces": lambda text: text.replace(" ", "  "),
    "other line ends": lambda text: text.replace("\n", "\r\n"),
    "answer the following": lambda text: f"Answer the following question.\n\n{text}",
    "in quotes": lambda text: f'"{text}"',
    "can you tell me": lambda text: f"Can you tell me: {text}",
    "typing errors": _with_typing_errors,
    "question": lambda text: f"Question: {text}",
    "no last mark": lambda text: text.rstrip(".?!"),
    "synonyms": lambda text: _WORD.sub(lambda match: SYNONYMS[match[0]], text),
}


def main() -> None:
    """Print a line per rewriting: share of the same class, share of the same model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="files of outcomes")
    parser.add_argument("--prompts", type=int, default=1_500, help="at most so many (1500)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes = [one for path in arguments.data for one in read_outcomes(path)]
    drawing = random.Random(arguments.seed)  # noqa: S311
    drawing.shuffle(outcomes)
    english = [one.prompt for one in outcomes if one.language == "en"][: arguments.prompts]
    chinese = [one.prompt for one in outcomes if one.language.startswith("zh")]
    router = ModelRouter("sk-ant-none")
    _report(router, english, REWRITINGS)
    _report(router, chinese[: arguments.prompts], _scripts())
    router.close()


def _report(
    router: ModelRouter, prompts: Sequence[str], rewritings: Mapping[str, Rewriting]
) -> None:
    if not prompts or not rewritings:
        return
    decided = [_decision(router, prompt) for prompt in prompts]
    print(f"{len(prompts):,} prompts".ljust(24), "same class", "same model")
    for name, rewritten in rewritings.items():
        others = [_decision(router, rewritten(prompt)) for prompt in prompts]
        pairs = list(zip(decided, others, strict=True))
        shares = [sum(one[place] == other[place] for one, other in pairs) for place in (0, 1)]
        print(name.ljust(24), *(f"{share / len(pairs):10.1%}" for share in shares))


def _decision(router: ModelRouter, prompt: str) -> Decision:
    told = router.explain(prompt)
    return told.complexity, told.model


def _scripts() -> dict[str, Rewriting]:
    try:
        from opencc import OpenCC  # noqa: PLC0415 - optional
    except ImportError:
        print("Traditional Chinese is left out: pip install opencc")
        return {}
    return {name: OpenCC(name).convert for name in ("s2twp", "s2t", "s2tw", "s2hk")}


if __name__ == "__main__":
    main()
