"""What is known of a request whose stream ends before the provider has told its counts.

The rule (docs/explanation/governed-calls.md): rather too much than too little, and where more may
be billed than the stream shows, nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tuppence.governing.endpoints import MESSAGES
from tuppence.governing.steps import Prepared
from tuppence.governing.streams import BYTES_PER_TOKEN, Estimate

_WITHOUT_REASONING = ("gpt-3.5", "gpt-4", "chatgpt-4o")
"""How the names of OpenAI's models begin that write nothing but what they show."""
_OWN_TOOLS = frozenset({"function", "custom"})
_NO_ASCII = bytes(range(128))


def estimate_of(prepared: Prepared) -> Estimate:
    """Return what is known of a call before any counts."""
    request = prepared.request
    hides = hides_thinking if prepared.endpoint is MESSAGES else hides_reasoning
    return Estimate(
        model=prepared.model,
        input_tokens=_input_tokens(prepared),
        most_output_tokens=prepared.wish.max_tokens,
        hides_output=hides(request),
    )


def hides_thinking(request: Mapping[str, Any]) -> bool:
    """Tell whether Claude may think: what is shown of that is a summary, or nothing."""
    thinking = request.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") != "disabled"


def hides_reasoning(request: Mapping[str, Any]) -> bool:
    """Tell whether OpenAI may bill output, or tools, that a stream does not show."""
    tools = request.get("tools")
    runs_tools = isinstance(tools, list) and any(
        not isinstance(tool, Mapping) or tool.get("type") not in _OWN_TOOLS for tool in tools
    )
    goes_on = bool(request.get("background") or request.get("prediction"))
    searches = request.get("web_search_options") is not None
    return runs_tools or goes_on or searches or _may_reason(request)


def _may_reason(request: Mapping[str, Any]) -> bool:
    reasoning = request.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
    if "none" in (effort, request.get("reasoning_effort")):
        return False
    return not str(request.get("model")).startswith(_WITHOUT_REASONING)


def _input_tokens(prepared: Prepared) -> int:
    """Return about how many tokens were sent; of text that is not ASCII, each byte is one."""
    foreign_bytes = len(msgspec.json.encode(prepared.request).translate(None, _NO_ASCII))
    more = foreign_bytes - foreign_bytes // BYTES_PER_TOKEN
    return min(prepared.size.about + more, prepared.size.most)
