"""The specification's code about prompt caching runs word for word, over real HTTP."""

# ruff: noqa: RUF001 - the document's texts are Chinese

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

SNIPPET = """
from caching.prompt_cache import PromptCache
cache = PromptCache(api_key="...")

# scene 1: customer-service agent (fixed FAQ document)
result = cache.create_cached_message(static_context=faq_doc,          # is cached
                                     dynamic_query="如何重置密碼？")   # dynamic content
first = result
# scene 2: multi-turn conversation (history is cached)
result = cache.create_multi_turn_conversation(system_prompt="你是一個代碼助手...",
                                              conversation_history=history,  # earlier turns
                                              new_message="繼續優化這段代碼")
# scene 3: cache efficiency analysis
analysis = cache.analyze_cache_efficiency(static_content_length=40000,   # 10K tokens
                                          expected_requests=100)
"""

SCENARIO = """
tracker = CostTrackingService(database_url=os.getenv("DATABASE_URL"))
cache = PromptCache(api_key=os.getenv("ANTHROPIC_API_KEY"))
def handle(query):
    result = cache.create_cached_message(static_context=faq_doc, dynamic_query=query)
    log = tracker.log_api_usage(
        user_id="john", team_id="customer-service", project_id="chatbot-prod",
        model="claude-sonnet-5-5",
        input_tokens=result["usage"]["input_tokens"],
        output_tokens=result["usage"]["output_tokens"],
        cached_tokens=result["usage"]["cache_read_tokens"],
        task_type="customer_query", task_complexity="simple")
    return {"response": result["response"], "cost": log.total_cost,
            "cache_hit": result["cache_hit"], "cache_savings": log.cache_savings}
results = [handle("我忘記密碼了，怎麼辦？") for _ in range(3)]
"""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A namespace for the snippets, with the stand-in where Anthropic would be."""
    app = FakeAnthropic()
    with serve(app) as base_url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        turns = [
            {"role": "user", "content": "寫一個排序函式"},
            {"role": "assistant", "content": "好"},
        ]
        names: dict[str, Any] = {"faq_doc": "問：如何退貨？ " * 2_000, "history": turns, "app": app}
        yield names
        if "cache" in names:
            names["cache"].close()


def test_three_scenes(names: dict[str, Any]) -> None:
    """A cached message, a conversation and an analysis, as the document shows them."""
    exec(SNIPPET, names)
    first, result, analysis = names["first"], names["result"], names["analysis"]
    assert first["response"]
    assert first["usage"]["cache_write_tokens"] > 1_000
    assert result["usage"]["output_tokens"] > 0
    shown = {
        "cost_without_cache",
        "cost_with_cache",
        "total_savings",
        "savings_percentage",
        "breakeven_requests",
        "recommendation",
    }
    assert shown <= set(analysis)
    assert (analysis["breakeven_requests"], analysis["recommendation"]) == (2, "enable caching")


def test_corrected_figures_of_the_efficiency_analysis(names: dict[str, Any]) -> None:
    """Sonnet 4 at $3: $3.00 without, $0.3345 with, 88.85 % saved (corrections, 5)."""
    exec(SNIPPET, names)
    analysis = names["cache"].analyze_cache_efficiency(
        40_000, 100, model="claude-sonnet-4-20250514"
    )
    assert analysis["cost_without_cache"] == 3.00
    assert analysis["cost_with_cache"] == 0.3345
    assert analysis["savings_percentage"] == pytest.approx(88.85)
    assert analysis["assumptions"]["expected_spacing_seconds"] == 60


def test_customer_service_agent(
    names: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scenario's cached calls are booked, and from the second on the cache is hit."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    exec("import os\nfrom cost_tracking.service import CostTrackingService", names)
    exec("from caching.prompt_cache import PromptCache", names)
    exec(SCENARIO, names)
    assert [one["cache_hit"] for one in names["results"]] == [False, True, True]
    assert names["results"][1]["cache_savings"] > 0
    names["tracker"].close()
