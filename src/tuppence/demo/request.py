"""One request of the made-up day, before it has a date and an idempotency key."""

from __future__ import annotations

from typing import NamedTuple

from tuppence.core.attribution import Attribution
from tuppence.core.usage import Usage

MINUTE_SECONDS = 60
HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS


class Request(NamedTuple):
    """A model call at seconds from midnight."""

    at_seconds: float
    attribution: Attribution
    provider: str
    model: str
    usage: Usage
