"""The final answer in a model's text, and whether two of them say the same.

Linear in the text's length, and without evaluating anything: whatever a model writes is only text.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction

_SAID = re.compile(r"(?:final answer|answer|答案)\s*(?:is|:|：|=|是|為|为)+\s*", re.IGNORECASE)  # noqa: RUF001
_OPTION = re.compile(r"\(?([A-J])[).:]?(?:\s|$)")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_LETTERING = re.compile(r"\\(?:text|mathrm|mathbf|textbf|left|right|,|;|!|quad)\b|\\[,;! ]")
_DROPPED = re.compile(r"[\s$,{}*`\"'\\]+")
_VALUE = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:/\d{1,40})?")
LONGEST_SAID = 200


def final_answer(text: str) -> str:
    """Return what a text comes to: what is boxed or said to be the answer, else its last number.

    A field "answer" of a JSON object counts too. Without any of these it is the whole text; empty
    where there is none.
    """
    text = text.strip()
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    if text.startswith("{"):
        said = _json_answer(text)
        if said is not None:
            return said
    said_at = [match.end() for match in _SAID.finditer(text)]
    if said_at:
        rest = text[said_at[-1] : said_at[-1] + LONGEST_SAID]
        rest = rest.splitlines()[0].strip() if rest.strip() else ""
        option = _OPTION.match(rest)
        number = _NUMBER.match(rest)
        return option[1] if option else number[0] if number else rest.rstrip(".。")
    numbers = _NUMBER.findall(text[-LONGEST_SAID:])
    return numbers[-1] if numbers else text


def same_answer(first: str, second: str) -> bool:
    r"""Tell whether two final answers say the same; an empty one agrees with nothing.

    Case, spaces, LaTeX's lettering and the writing of numbers (1/2, 0.50, \frac{1}{2}) do not
    count.
    """
    one, other = _plain(first), _plain(second)
    if not one or not other:
        return False
    if one == other:
        return True
    values = _value(one), _value(other)
    return values[0] is not None and values[0] == values[1]


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _json_answer(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    said = value.get("answer") if isinstance(value, dict) else None
    return None if said is None else str(said)


def _plain(answer: str) -> str:
    answer = _FRACTION.sub(r"\1/\2", answer)
    answer = _LETTERING.sub("", answer)
    return _DROPPED.sub("", answer).rstrip(".。").casefold()


def _value(plain: str) -> Fraction | None:
    if not _VALUE.fullmatch(plain.rstrip("%")):
        return None
    above, _, below = plain.rstrip("%").partition("/")
    if "." in below or (below and not int(below)):
        return None
    value = Fraction(above) / (int(below) if below else 1)
    return value / 100 if plain.endswith("%") else value
