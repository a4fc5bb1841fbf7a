"""The specification's code about routing runs word for word, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tuppence.model_router.complexity import TaskComplexity
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

BASIC_USE = """
import os
from model_router.router import ModelRouter
router = ModelRouter(api_key=os.getenv("ANTHROPIC_API_KEY"))
result = router.route_and_call(
    prompt="幫我總結這份文檔",
    budget_mode=True          # budget mode
)
print(f"model: {result['model_used']}")
print(f"actual cost: ${result['actual_cost']['total_cost']:.4f}")
"""

SECTION = """
from model_router.router import ModelRouter, TaskComplexity
router = ModelRouter(api_key="...", **more)
complexity = router.analyze_complexity("幫我總結這篇文章")
model = router.select_model(complexity=TaskComplexity.MODERATE,
                            budget_mode=True)   # True: the cheapest, False: the strongest
strongest = router.select_model(complexity=TaskComplexity.MODERATE, budget_mode=False)
result = router.route_and_call(prompt="實現一個二叉樹遍歷算法",
                               budget_mode=False)  # complex task, performance mode
estimate = router.estimate_cost(model="claude-opus-4-20250514",
                                estimated_input_tokens=2000, estimated_output_tokens=1000)
"""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A namespace for the snippets, with the stand-in where Anthropic would be."""
    retired = ("claude-sonnet-4-20250514", "claude-opus-4-20250514")
    app = FakeAnthropic(context_windows=dict.fromkeys(retired, 200_000))
    with serve(app) as base_url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        names: dict[str, Any] = {"more": {"tiers": "chapter-12"}, "app": app}
        yield names
        if "router" in names:
            names["router"].close()


def test_basic_use(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Summarising a document goes to today's middle tier; the cost is printed in dollars."""
    exec(BASIC_USE, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "model: claude-sonnet-5-5"
    assert printed[1].startswith("actual cost: $0.0")
    assert names["result"]["actual_cost"]["total_cost_nanos"] > 0


@pytest.mark.filterwarnings("ignore:The model 'claude-:DeprecationWarning")
def test_the_document_s_own_models(names: dict[str, Any]) -> None:
    """With the preset chapter-12 everything is as the document prints it."""
    exec(SECTION, names)
    assert names["complexity"] is TaskComplexity.MODERATE
    assert names["model"] == "claude-sonnet-4-20250514"
    assert names["strongest"] == "claude-opus-4-20250514"
    assert names["result"]["model_used"] == "claude-opus-4-20250514"
    shown = {name: names["estimate"][name] for name in ("model", "input_cost", "output_cost")}
    assert shown == {
        "model": "claude-opus-4-20250514",
        "input_cost": 0.0300,
        "output_cost": 0.0750,
    }
    assert names["estimate"]["total_cost"] == 0.1050
    assert names["estimate"]["total_cost_nanos"] == 105_000_000
