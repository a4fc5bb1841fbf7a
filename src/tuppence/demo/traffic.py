"""One day of agent traffic of a made-up company, calibrated to real traces.

The same day and seed give the same calls. What is measured and what is assumed:
docs/explanation/demo-traffic.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from itertools import chain

from tuppence.core.periods import MICROS_PER_SECOND, to_micros
from tuppence.core.usage import MeteredPart
from tuppence.cost_tracking.booking import Call, key_of_response
from tuppence.demo.coding import coding_requests
from tuppence.demo.request import DAY_SECONDS, Request
from tuppence.demo.services import (
    chatbot_requests,
    contract_requests,
    nightly_requests,
    trial_requests,
)

KINDS = (coding_requests, chatbot_requests, nightly_requests, contract_requests, trial_requests)


def day_of_traffic(day: date, seed: int = 1) -> Iterator[Call]:
    """Yield the calls of one UTC day in the order of their times."""
    rng = random.Random(f"{seed} {day.isoformat()}")  # noqa: S311 - repeatable, not secret
    requests = chain.from_iterable(kind(rng) for kind in KINDS)
    within = [request for request in requests if request.at_seconds < DAY_SECONDS]
    within.sort(key=lambda request: request.at_seconds)
    midnight_micros = to_micros(datetime.combine(day, time.min, tzinfo=UTC))
    for number, request in enumerate(within):
        yield _call(request, midnight_micros, f"demo-{day.isoformat()}-{seed}-{number}")


def _call(request: Request, midnight_micros: int, response_id: str) -> Call:
    return Call(
        midnight_micros + int(request.at_seconds * MICROS_PER_SECOND),
        request.attribution,
        request.provider,
        (MeteredPart(request.model, request.usage),),
        key_of_response(request.provider, response_id),
    )
