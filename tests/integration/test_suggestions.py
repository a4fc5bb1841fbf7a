"""Suggestions against a real ledger, with savings worked out by hand from the prices of its day.

Nano-dollars per token on 2026-11-10 (input, output, write 5m, write 1h, read):
haiku-5-5 100, 500, 125, 200, 10 (prompts over 100,000 tokens: five times that);
sonnet-5-5 2,000, 10,000, 2,500, 4,000, 100; opus-5-5 4,000, 20,000, 5,000, 8,000, 200.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tuppence.core.attribution import Attribution
from tuppence.core.periods import Span, to_micros
from tuppence.core.usage import STANDARD_TERMS, MeteredPart, Terms, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.insights.suggestions import LEAST_SAVING_NANOS, suggest
from tuppence.prices.model_facts import load_tiers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuppence.insights.suggestion import Suggestion
    from tuppence.prices.model_facts import Tiers

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
SPAN = Span.between(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC))
HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
SMALL = Usage(input_tokens=1_000, output_tokens=200)
MIDDLE = Usage(input_tokens=2_000, output_tokens=200)
"""Too small a prompt for caching to be suggested."""
BATCH = Terms(processing="batch")


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    """Return an empty ledger on a SQLite file."""
    opened = Ledger.open(sqlite_url, now=lambda: NOON)
    yield opened
    opened.close()


def _calls(
    count: int,
    model: str,
    usage: Usage,
    *,
    at: datetime = NOON,
    every: timedelta = timedelta(seconds=1),
    terms: Terms = STANDARD_TERMS,
    **who: str,
) -> list[Call]:
    """Return calls of one kind, one after the other."""
    part = MeteredPart(model, usage, terms)
    return [
        Call(to_micros(at + number * every), Attribution(**who), None, (part,))
        for number in range(count)
    ]


def _suggestions(
    ledger: Ledger, *, span: Span = SPAN, team_id: str | None = None, tiers: Tiers | None = None
) -> list[Suggestion]:
    book = ledger.price_book()
    return ledger.database.read(suggest, book, span=span, team_id=team_id, tiers=tiers)


def _savings(ledger: Ledger) -> dict[str, int | None]:
    """Return the savings by code; there must be one suggestion of each code at most."""
    found = _suggestions(ledger)
    savings = {one.code: one.estimated_savings_nanos for one in found}
    assert len(savings) == len(found)
    return savings


def test_nothing_is_suggested_for_an_empty_ledger(ledger: Ledger) -> None:
    """Without calls there is nothing to say, with a closed span and with an open one."""
    assert _suggestions(ledger) == []
    assert _suggestions(ledger, span=Span()) == []


def test_simple_tasks_are_downgraded_as_the_document_words_it(ledger: Ledger) -> None:
    """245 simple tasks: 245 x (1,000 x 1,900 + 200 x 9,500) nano-dollars less on Haiku."""
    ledger.book(_calls(245, SONNET, SMALL, task_complexity="simple"))
    (found,) = _suggestions(ledger)
    assert found.to_dict() == {
        "code": "downgrade_simple_tasks",
        "priority": "high",
        "message": "245 simple tasks used a Sonnet model; downgrade them to Haiku "
        "- estimated saving $0.93",
        "estimated_savings": 0.931,
        "estimated_savings_nanos": 931_000_000,
        "evidence": {
            "task_complexity": "simple",
            "requests": 245,
            "models": [SONNET],
            "target_model": HAIKU,
        },
    }


def test_suggestions_are_told_in_traditional_chinese(ledger: Ledger) -> None:
    """Only the message changes with the language."""
    ledger.book(_calls(1, OPUS, MIDDLE, task_complexity="simple"))
    (found,) = _suggestions(ledger)
    english, chinese = found.to_dict("en"), found.to_dict("zh_TW")
    assert english["message"] == (
        "1 simple task used an Opus model; downgrade it to Haiku - estimated saving $0.01"
    )
    assert chinese["message"] == (
        "有 1 個簡單任務使用了 Opus 模型；改用 Haiku 預估可節省 $0.01"  # noqa: RUF001 - Chinese
    )
    assert english == {**chinese, "message": english["message"]}


def test_newer_tokenizers_take_more_tokens_for_the_same_text(ledger: Ledger) -> None:
    """Sonnet 4.5 at 3/15 to Haiku: 4.5 dollars booked, 1.3 times the tokens cost 0.195."""
    ledger.book(_calls(500, "claude-sonnet-4-5", MIDDLE, task_complexity="simple"))
    assert _savings(ledger) == {"downgrade_simple_tasks": 4_305_000_000}


def test_moderate_tasks_are_downgraded_from_the_top_tier_only(ledger: Ledger) -> None:
    """50 moderate tasks on Opus cost 0.60 dollars, on Sonnet 0.30; those on Sonnet stay."""
    ledger.book(_calls(50, OPUS, MIDDLE, task_complexity="moderate"))
    ledger.book(_calls(50, SONNET, MIDDLE, task_complexity="moderate"))
    (found,) = _suggestions(ledger)
    assert (found.code, found.estimated_savings_nanos) == ("downgrade_simple_tasks", 300_000_000)
    assert found.text() == (
        "50 moderate tasks used an Opus model; downgrade them to Sonnet - estimated saving $0.30"
    )


@pytest.mark.parametrize("complexity", ["complex", ""])
def test_other_tasks_stay_on_current_models(ledger: Ledger, complexity: str) -> None:
    """A call that nobody calls simple must not be moved to a weaker model."""
    ledger.book(_calls(500, OPUS, MIDDLE, task_complexity=complexity))
    assert _suggestions(ledger) == []


def test_large_prompts_are_priced_in_their_context_tier(ledger: Ledger) -> None:
    """Prompts of 200,000 tokens cost five times the price on Haiku: 4 dollars become 1."""
    usage = Usage(input_tokens=200_000)
    ledger.book(_calls(10, SONNET, usage, task_complexity="simple", at=NOON - timedelta(days=1)))
    assert _savings(ledger)["downgrade_simple_tasks"] == 3_000_000_000


def test_a_move_that_could_cost_more_is_not_suggested(ledger: Ledger) -> None:
    """Haiku 3 at 0.25 could have prompts that Haiku 5.5 bills at 0.50: sums cannot tell."""
    ledger.book(_calls(5_000, "claude-3-haiku-20240307", MIDDLE, task_complexity="simple"))
    assert _suggestions(ledger) == []


def test_fast_mode_is_no_saving_of_a_downgrade(ledger: Ledger) -> None:
    """Fast Opus is booked at twice its price; only the standard 4 dollars are compared with 0.5."""
    usage = Usage(input_tokens=1_000_000)
    terms = Terms(speed="fast")
    ledger.book(_calls(1, OPUS, usage, terms=terms, task_complexity="simple"))
    assert ledger.price_book().cost(usage, OPUS, int(NOON.timestamp()), terms=terms)[0] == 8 * 10**9
    assert _savings(ledger)["downgrade_simple_tasks"] == 3_500_000_000


def test_older_models_are_replaced_by_the_current_one_of_their_family(ledger: Ledger) -> None:
    """50 calls of Opus 4.8 at 5/25 cost 0.75 dollars, at 4/20 with the same tokenizer 0.60."""
    ledger.book(_calls(50, "claude-opus-4-8", MIDDLE))
    (found,) = _suggestions(ledger)
    assert (found.code, found.priority) == ("use_current_model", "medium")
    assert found.estimated_savings_nanos == 150_000_000
    assert found.text() == (
        "Calls of older Opus models (50): claude-opus-5-5 of the same family costs less for the "
        "same text - estimated saving $0.15"
    )


def test_a_lower_price_eaten_by_the_tokenizer_is_no_saving(ledger: Ledger) -> None:
    """Opus 4.6 at 5/25 costs 0.75 dollars; 1.3 times the tokens at 4/20 would cost 0.78."""
    ledger.book(_calls(50, "claude-opus-4-6", MIDDLE))
    assert _suggestions(ledger) == []


def test_a_part_of_a_call_is_no_call_to_move(ledger: Ledger) -> None:
    """What a provider ran inside a call on a model of its choice is not for the caller to move."""
    parts = (MeteredPart(SONNET, SMALL), MeteredPart("claude-opus-4-8", Usage(output_tokens=10**5)))
    ledger.book([Call(to_micros(NOON), Attribution(), None, parts)])
    assert _suggestions(ledger) == []


def test_no_call_is_moved_twice(ledger: Ledger) -> None:
    """A simple call of an old Sonnet goes to Haiku, the others to the new Sonnet (1.3 x 2/10)."""
    ledger.book(_calls(500, "claude-sonnet-4-5", MIDDLE, task_complexity="simple"))
    ledger.book(_calls(500, "claude-sonnet-4-5", MIDDLE))
    assert _savings(ledger) == {
        "downgrade_simple_tasks": 4_305_000_000,
        "use_current_model": 4_500_000_000 - 3_900_000_000,
    }


def test_tiers_of_the_document_are_a_preset(ledger: Ledger) -> None:
    """Its Sonnet to its Haiku: 245 x (1,000 x 2,750 + 200 x 13,750), named by the real id."""
    ledger.book(_calls(245, "claude-sonnet-4-20250514", SMALL, task_complexity="simple"))
    (found,) = _suggestions(ledger, tiers=load_tiers("chapter-12"))
    assert found.estimated_savings_nanos == 1_347_500_000
    assert found.evidence["target_model"] == "claude-3-haiku-20240307"


def test_users_of_high_frequency_could_batch(ledger: Ledger) -> None:
    """200 calls a day at 0.003 dollars cost half in a batch; 199, or 201 on two days, are few."""
    usage = Usage(input_tokens=1_000, output_tokens=100)
    ledger.book(_calls(200, SONNET, usage, user_id="ada"))
    ledger.book(_calls(199, SONNET, usage, user_id="bob"))
    ledger.book(_calls(200, SONNET, usage, user_id="cy"))
    ledger.book(_calls(1, SONNET, usage, user_id="cy", at=NOON + timedelta(days=1)))
    ledger.book(_calls(500, SONNET, usage))
    (found,) = _suggestions(ledger)
    assert (found.code, found.priority) == ("use_batch", "medium")
    assert found.estimated_savings_nanos == 300_000_000
    assert found.text() == (
        "1 user calls at high frequency; use batch processing for work that can wait up to "
        "24 hours - estimated saving up to $0.30"
    )
    assert found.evidence == {
        "users": 1,
        "requests": 200,
        "models": [SONNET],
        "least_requests_per_active_day": 200,
    }


def test_what_is_batched_already_saves_nothing(ledger: Ledger) -> None:
    """Calls booked at the batch price add nothing to the saving of those that are not."""
    usage = Usage(input_tokens=1_000, output_tokens=100)
    ledger.book(_calls(300, SONNET, usage, terms=BATCH, user_id="ada"))
    assert _suggestions(ledger) == []
    ledger.book(_calls(10, SONNET, usage, user_id="ada"))
    assert _savings(ledger) == {"use_batch": 15_000_000}


def test_models_without_a_batch_price_are_left_out(ledger: Ledger) -> None:
    """Where no batch price is known, none is assumed."""
    ledger.book(_calls(300, "deepseek-chat", MIDDLE, user_id="ada"))
    assert _suggestions(ledger) == []


def test_caching_is_suggested_for_large_prompts_that_are_never_cached(ledger: Ledger) -> None:
    """Half of 100,000 tokens in two hours: 10,000 written at 4,000, 40,000 read at 100."""
    usage = Usage(input_tokens=10_000, output_tokens=100)
    for hour in (0, 3):
        ledger.book(
            _calls(5, SONNET, usage, at=NOON + timedelta(hours=hour), project_id="helpdesk")
        )
    (found,) = _suggestions(ledger)
    assert (found.code, found.priority) == ("enable_caching", "high")
    assert found.estimated_savings_nanos == 100_000_000 - 40_000_000 - 4_000_000
    assert found.evidence == {
        "project": "helpdesk",
        "provider": "anthropic",
        "models": [SONNET],
        "requests": 10,
        "average_input_tokens": 10_000,
        "active_hours": 2,
        "cache_lifetime": "1h",
        "assumed_repeated_percent": 50,
    }
    assert found.text("zh_TW").startswith("請為專案 helpdesk 的 claude-sonnet-5-5 啟用提示快取")


def test_batched_input_saves_half_by_caching(ledger: Ledger) -> None:
    """Input that was billed at half the price saves half as much: 10 calls in one hour."""
    ledger.book(_calls(10, SONNET, Usage(input_tokens=10_000), terms=BATCH))
    # 5,000 tokens written at 4,000, 45,000 read at 100: 100 - 20 - 4.5 million, halved.
    assert _savings(ledger) == {"enable_caching": 37_750_000}


@pytest.mark.parametrize(
    ("model", "usage", "minutes"),
    [
        (SONNET, Usage(input_tokens=10_000), 60),
        (SONNET, Usage(input_tokens=2_047), 1),
        (SONNET, Usage(input_tokens=10_000, cache_read_tokens=1_000), 1),
        (SONNET, Usage(input_tokens=10_000, cache_write_1h_tokens=1_000), 1),
        ("claude-haiku-4-5", Usage(input_tokens=8_191), 1),
        ("gpt-4o", Usage(input_tokens=10_000), 1),
    ],
    ids=["rare", "small", "reads", "writes", "below the minimum", "caches by itself"],
)
def test_caching_is_not_suggested_where_it_might_not_pay(
    ledger: Ledger, model: str, usage: Usage, minutes: int
) -> None:
    """Rare calls, small prompts, caching in use, or no way to ask for it: nothing to enable."""
    ledger.book(_calls(40, model, usage, every=timedelta(minutes=minutes)))
    assert "enable_caching" not in _savings(ledger)


def test_caching_saves_nothing_where_input_is_free(ledger: Ledger) -> None:
    """A contract that bills output only leaves nothing to save by caching input."""
    ledger.set_price(SONNET, {"input_mtok": 0}, starts_at=datetime(2026, 11, 1, tzinfo=UTC))
    ledger.book(_calls(40, SONNET, Usage(input_tokens=10_000, output_tokens=10)))
    assert _suggestions(ledger) == []


def test_wasted_cache_writes_are_named(ledger: Ledger) -> None:
    """A million tokens written at 2,500 and never read would have cost 2,000 each."""
    ledger.book(_calls(1, SONNET, Usage(cache_write_5m_tokens=1_000_000)))
    (found,) = _suggestions(ledger)
    assert (found.code, found.estimated_savings_nanos) == ("stop_wasted_cache_writes", 500_000_000)
    assert found.text() == (
        "Cache writes of claude-sonnet-5-5 in project (unattributed) cost $0.50 more than their "
        "reads saved; cache only what is sent again before it expires"
    )
    assert "專案 （未歸屬）" in found.text("zh_TW")  # noqa: RUF001 - Chinese


def test_writes_that_pay_by_being_read_are_left_alone(ledger: Ledger) -> None:
    """One read of the same tokens saves 1,900 each, more than the 500 that writing cost."""
    usage = Usage(cache_write_5m_tokens=1_000_000, cache_read_tokens=1_000_000)
    ledger.book(_calls(1, SONNET, usage))
    assert _suggestions(ledger) == []


def test_missing_prices_come_with_their_remedy(ledger: Ledger) -> None:
    """Models without a price are named, the most used first; nobody can tell what that saves."""
    for count, model in enumerate(("own-a", "own-b", "own-c", "own-d"), start=1):
        ledger.book(_calls(count, model, SMALL, project_id=f"p{count}"))
    (found,) = _suggestions(ledger)
    assert found.to_dict() == {
        "code": "set_missing_prices",
        "priority": "high",
        "message": "Calls without a known price (10), so their cost is missing from every report: "
        "own-d, own-c, own-b, …. Run `tuppence prices set MODEL ...`, then "
        "`tuppence prices reprice`",
        "evidence": {"unpriced_requests": 10, "models": ["own-d", "own-c", "own-b", "own-a"]},
    }


def test_no_price_is_missing_once_it_is_set_and_applied(ledger: Ledger) -> None:
    """Doing what the suggestion says must make it go away."""
    ledger.book(_calls(3, "own-a", SMALL))
    ledger.set_price(
        "own-a", {"input_mtok": 1, "output_mtok": 2}, starts_at=datetime(2026, 11, 1, tzinfo=UTC)
    )
    ledger.reprice()
    assert _suggestions(ledger) == []


def test_what_saves_less_than_a_cent_is_not_worth_a_sentence(ledger: Ledger) -> None:
    """One simple call of 1,000 and 200 tokens would save 0.0038 dollars."""
    ledger.book(_calls(1, SONNET, SMALL, task_complexity="simple"))
    assert _suggestions(ledger) == []


def test_important_and_large_savings_come_first(ledger: Ledger) -> None:
    """Priority decides first, then the amount; what has no amount is last of its priority."""
    ledger.book(_calls(50, SONNET, MIDDLE, task_complexity="simple"))
    ledger.book(_calls(50, OPUS, MIDDLE, task_complexity="simple"))
    ledger.book(_calls(50, "claude-opus-4-8", MIDDLE))
    ledger.book(_calls(1, SONNET, Usage(cache_write_5m_tokens=1_000_000), project_id="w"))
    ledger.book(_calls(1, "own-a", SMALL))
    assert [(one.priority, one.code) for one in _suggestions(ledger)] == [
        ("high", "downgrade_simple_tasks"),
        ("high", "downgrade_simple_tasks"),
        ("high", "set_missing_prices"),
        ("medium", "stop_wasted_cache_writes"),
        ("medium", "use_current_model"),
    ]
    assert [one.evidence["models"] for one in _suggestions(ledger)[:2]] == [[OPUS], [SONNET]]


def test_all_of_it_looks_at_one_team_and_span_on_both_databases(database_url: str) -> None:
    """Calls of other teams and days must not show, in sums, in hours or in days."""
    ledger = Ledger.open(database_url, now=lambda: NOON)
    own = _team_calls("a", NOON)
    ledger.book(own)
    alone = [one.to_dict() for one in _suggestions(ledger, team_id="a")]
    ledger.book(_team_calls("b", NOON + timedelta(hours=2)))
    ledger.book(_team_calls("a", NOON - timedelta(days=60)))
    assert [one.to_dict() for one in _suggestions(ledger, team_id="a")] == alone
    assert _suggestions(ledger, team_id="nobody") == []
    assert sorted(one["code"] for one in alone) == [
        "downgrade_simple_tasks",
        "enable_caching",
        "set_missing_prices",
        "stop_wasted_cache_writes",
        "use_batch",
        "use_current_model",
    ]
    ledger.close()


def test_an_open_span_is_priced_at_its_last_call(ledger: Ledger) -> None:
    """Without an end, prices are those of the last day with calls, as for a span that ends then."""
    ledger.book(_calls(245, SONNET, SMALL, task_complexity="simple"))
    assert _suggestions(ledger, span=Span()) == _suggestions(ledger)
    assert _suggestions(ledger)[0].estimated_savings_nanos >= LEAST_SAVING_NANOS


def _team_calls(team: str, at: datetime) -> list[Call]:
    """Return calls that give rise to every suggestion there is."""
    large = Usage(input_tokens=10_000, output_tokens=1_000)
    wasted = Usage(cache_write_5m_tokens=1_000_000)
    return [
        *_calls(245, SONNET, SMALL, at=at, team_id=team, task_complexity="simple"),
        *_calls(10, "claude-opus-4-8", large, at=at, team_id=team, project_id="old"),
        *_calls(200, SONNET, SMALL, at=at, team_id=team, user_id="ada"),
        *_calls(10, SONNET, wasted, at=at, team_id=team, project_id="wasteful"),
        *_calls(1, "own-a", SMALL, at=at, team_id=team),
    ]
