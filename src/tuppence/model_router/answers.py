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
_DROPPED = re.compile(r"[\s${}*`\"'\\]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_VALUE = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:/\d{1,40})?")
_MATHEMATICS = re.compile(
    r"[=≈]\s*[-$\\({]*\d|\d\s*[+×÷*^]\s*\d|\\(?:d?frac|sqrt|cdot|times|sum|pi)\b"  # noqa: RUF001
)
_CODE = re.compile(r"```|[;{]$|^[ \t]*(?:def|class|import|return|print)\b", re.MULTILINE)
_SAYS_NUMBER = re.compile(
    r"(?:^|(?:\b(?:is|are|be|get|equals?|makes?|gives?|total)|[:：是為为得有共])\s*)[*$]*"  # noqa: RUF001
    rf"({_NUMBER.pattern})[*$\s.。!！]*$",  # noqa: RUF001
    re.IGNORECASE,
)
LONGEST_SAID = 200


def final_answer(text: str) -> str:
    """Return what a text comes to: what is boxed, said to be the answer, or a number at its end.

    A field "answer" of a JSON object counts too. A number counts where mathematics leads to it, or
    where a short text says nothing else ("It is 12."). Without any of these it is the whole text;
    empty where there is none.
    """
    text = unfenced(text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    if text.startswith(("{", "[")):
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
    return _number_told(text) or text


def unfenced(text: str) -> str:
    """Return a text without the code fence around all of it, which models like to write."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    is_fenced = first.startswith("```") and rest.endswith("```")
    return rest.removesuffix("```").strip() if is_fenced else text


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
        said = value.get("answer") if isinstance(value, dict) else None
        return json.dumps(value, sort_keys=True) if said is None else str(said)
    except (ValueError, RecursionError):
        return None


def _number_told(text: str) -> str | None:
    """Return the last number, where it is what the text comes to and not just any (a year)."""
    if len(text) <= LONGEST_SAID:
        said = _SAYS_NUMBER.search(text)
        if said:
            return said[1]
    if _CODE.search(text) or not _MATHEMATICS.search(text):
        return None
    numbers = _NUMBER.findall(text[-LONGEST_SAID:])
    return numbers[-1] if numbers else None


def _plain(answer: str) -> str:
    answer = _FRACTION.sub(r"\1/\2", answer)
    answer = _LETTERING.sub("", answer)
    answer = _THOUSANDS.sub("", _DROPPED.sub("", answer))
    return answer.rstrip(".。").casefold()


def _value(plain: str) -> Fraction | None:
    if not _VALUE.fullmatch(plain.rstrip("%")):
        return None
    above, _, below = plain.rstrip("%").partition("/")
    if "." in below or (below and not int(below)):
        return None
    value = Fraction(above) / (int(below) if below else 1)
    return value / 100 if plain.endswith("%") else value
