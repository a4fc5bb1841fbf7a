"""What holds for every suggestion, whatever was booked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuppence.core.attribution import Attribution
from tuppence.core.money import to_dollars
from tuppence.core.periods import MICROS_PER_HOUR, Span, to_micros
from tuppence.core.usage import STANDARD_TERMS, MeteredPart, Terms, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.insights.suggestion import PRIORITIES
from tuppence.insights.suggestions import LEAST_SAVING_NANOS, suggest

if TYPE_CHECKING:
    import pytest

START = datetime(2026, 9, 20, tzinfo=UTC)
MODELS = [
    "claude-haiku-5-5",
    "claude-haiku-4-5",
    "claude-3-haiku-20240307",
    "claude-sonnet-5-5",
    "claude-sonnet-4-5",
    "claude-opus-5-5",
    "claude-opus-4-8",
    "claude-opus-4-6",
    "claude-fable-5",
    "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "gpt-4o",
    "own-model",
]
TERMS = [STANDARD_TERMS, Terms(processing="batch"), Terms(speed="fast"), Terms(inference_geo="us")]

tokens = st.one_of(st.just(0), st.integers(0, 5_000), st.integers(0, 2_000_000))
usages = st.builds(
    Usage,
    input_tokens=tokens,
    cache_write_5m_tokens=tokens,
    cache_write_1h_tokens=tokens,
    cache_read_tokens=tokens,
    output_tokens=tokens,
)
people = st.builds(
    Attribution,
    team_id=st.sampled_from(["", "a"]),
    project_id=st.sampled_from(["", "p"]),
    user_id=st.sampled_from(["", "ada"]),
    task_complexity=st.sampled_from(["", "simple", "moderate", "complex"]),
)


@st.composite
def bursts(draw: st.DrawFn) -> list[Call]:
    """Draw some or many calls of one kind, close together or hours apart."""
    usage, who = draw(usages), draw(people)
    part = MeteredPart(draw(st.sampled_from(MODELS)), usage, draw(st.sampled_from(TERMS)))
    start = to_micros(START) + draw(st.integers(0, 60 * 24)) * MICROS_PER_HOUR
    step = draw(st.sampled_from([1_000_000, MICROS_PER_HOUR // 3, MICROS_PER_HOUR]))
    count = draw(st.sampled_from([1, 2, 10, 250]))
    return [Call(start + number * step, who, None, (part,)) for number in range(count)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.lists(bursts(), min_size=1, max_size=8), team=st.sampled_from([None, "a"]))
def test_no_suggestion_costs_more_than_it_saves(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[Call]], team: str | None
) -> None:
    """Every saving is at least a cent, at most what was spent, and said in both languages."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'x.db'}")
    calls = [call for group in groups for call in group]
    ledger.book(calls)
    _, total = ledger.summary(SummaryQuery())
    book = ledger.price_book()
    found = ledger.database.read(suggest, book, span=Span(), team_id=team)
    for one in found:
        saving = one.estimated_savings_nanos
        assert saving is None or LEAST_SAVING_NANOS <= saving <= total.cost_nanos
        assert ("estimated_savings" in one.to_dict()) == (saving is not None)
        assert saving is None or one.to_dict()["estimated_savings"] == to_dollars(saving)
        assert one.text() != one.text("zh_TW")
        assert "{" not in one.text() + one.text("zh_TW")
    ranks = [(PRIORITIES.index(o.priority), -(o.estimated_savings_nanos or 0)) for o in found]
    assert ranks == sorted(ranks)
    ledger.close()
