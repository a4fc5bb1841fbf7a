"""The specification's full scenario: a customer-service agent with a budget, a cache and a report.

The two functions are the document's own text; it imports the document's own names, which the small
distribution compat/ provides. What surrounds them plays the company: a FAQ, customers, and, where
there is no key, a stand-in provider on this machine whose answers cost nothing.

    python examples/full_demo.py --stand-in
    ANTHROPIC_API_KEY=sk-ant-... python examples/full_demo.py      # real answers, some cents

Needs compat/ and the extras `anthropic` and, for the stand-in, `testing`.
"""

# ruff: noqa: ANN201, D103, DTZ003, E702, ERA001, F841, INP001, RUF001 - the document's text

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from budget.throttler import BudgetThrottler
from caching.prompt_cache import PromptCache
from cost_tracking.service import CostTrackingService
from model_router.router import ModelRouter

from tuppence.core.money import format_dollars
from tuppence.core.usage import Usage
from tuppence.errors import TuppenceError
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

if TYPE_CHECKING:
    from tuppence.testing.fake_anthropic import FakeAnthropic

BOOKED_MODEL = "claude-sonnet-4-20250514"
"""What the document's text books its calls under, whichever model answers."""
COLUMNS = 80

# From here on the document's own text; only what it leaves out is filled in.
# fmt: off

def handle_customer_query(user_id: str, query: str, priority: str = "normal"):
    # 1: check the budget
    estimated_cost = 0.05
    decision = throttler.should_throttle(requested_cost=estimated_cost, priority=priority)
    if not decision["allow"]:
        return {"status": "blocked", "reason": decision["reason"]}
    # 2: route (by budget state)
    budget_mode = decision["strategy"] in ["downgrade_model", "reduce_rate"]
    # 3: use the cache (fixed FAQ document)
    result = cache.create_cached_message(static_context=faq_doc, dynamic_query=query)
    # 4: record the cost
    log = tracker.log_api_usage(
        user_id=user_id, team_id="customer-service", project_id="chatbot-prod",
        model="claude-sonnet-4-20250514",
        input_tokens=result["usage"]["input_tokens"],
        output_tokens=result["usage"]["output_tokens"],
        cached_tokens=result["usage"]["cache_read_tokens"],
        task_type="customer_query", task_complexity="simple")
    # 5: update the throttler
    throttler.record_usage(log.total_cost)
    return {"status": "success", "response": result["response"], "cost": log.total_cost,
            "cache_hit": result["cache_hit"], "cache_savings": log.cache_savings}


def generate_daily_report():
    today = datetime.utcnow(); yesterday = today - timedelta(days=1)
    team_summary = tracker.get_cost_summary(start_date=yesterday, end_date=today, group_by="team")
    for item in team_summary:
        # item['entity'], item['total_cost'], item['request_count'],
        # item['avg_cost_per_request'], item['cache_savings']
        print(f"\nteam: {item['entity']}")
        print(f"  total cost: ${item['total_cost']:.2f}")
        print(f"  requests: {item['request_count']:,}")
        print(f"  average cost: ${item['avg_cost_per_request']:.4f}")
        print(f"  cache savings: ${item['cache_savings']:.2f}")
    budget_summary = throttler.get_budget_summary()
    # ['monthly_budget'], ['current_usage'], ['usage_percentage'], ['remaining_budget'], ['status']
    print(f"\nbudget: ${budget_summary['monthly_budget']:.2f}")
    print(f"  used: ${budget_summary['current_usage']:.2f}"
          f" ({budget_summary['usage_percentage']:.1f}%)")
    print(f"  remaining: ${budget_summary['remaining_budget']:.2f}")
    print(f"  status: {budget_summary['status']}")
    suggestions = tracker.get_optimization_suggestions(team_id="customer-service", days=7)
    print("\nsuggestions:")
    for s in suggestions:
        # s['priority'].upper(), s['message'], and, where there is one, s['estimated_savings']
        print(textwrap.fill(f"  [{s['priority'].upper()}] {s['message']}", COLUMNS,
                            subsequent_indent="    "))
        if "estimated_savings" in s:
            print(f"    estimated savings: ${s['estimated_savings']:.2f}")

# fmt: on
# The document's own text ends.


TOPICS = ("密碼", "退貨", "換貨", "運費", "發票", "付款", "優惠券", "會員", "訂單", "保固")
FAQ_DOCUMENT = "客服常見問題\n" + "\n".join(
    f"問：關於{topic}，{question}\n答：{answer}"
    for topic in TOPICS
    for question, answer in (
        ("我應該從哪裡開始？", f"請登入帳號，在「我的帳號」選擇「{topic}」，再依畫面指示操作。"),
        ("需要多久時間？", "一般在兩個工作天內完成，完成後我們會以電子郵件通知您。"),
        ("可以取消或修改嗎？", "在處理完成之前都可以；之後請聯絡客服，並提供訂單編號。"),
        ("需要付費嗎？", "不需要。若有任何費用，我們會事先取得您的同意。"),
        ("出現錯誤訊息怎麼辦？", "請重新整理頁面後再試一次；若仍然發生，請附上畫面截圖聯絡客服。"),
    )
)
FIRST_ANSWER = "請在登入頁選擇「忘記密碼」，我們會寄送重設連結給您。"
CUSTOMERS = ("customer-001", "customer-002", "customer-003")


class Books(NamedTuple):
    """What the ledger and the throttler say was spent, in nano-dollars."""

    ledger_nanos: int
    throttler_nanos: int


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description="The specification's full scenario: a customer-service agent.",
        epilog="Without ANTHROPIC_API_KEY the stand-in is used. With the stand-in and without "
        "DATABASE_URL the ledger is thrown away afterwards.",
    )
    parser.add_argument(
        "--stand-in", action="store_true", help="ask a stand-in on this machine, even with a key"
    )
    parser.add_argument(
        "--queries",
        type=_count,
        default=20,
        metavar="N",
        help="how many customers ask, one after the other (default: 20)",
    )
    return parser.parse_args()


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1 on")
    return count


@contextmanager
def surroundings(asked: argparse.Namespace) -> Iterator[FakeAnthropic | None]:
    """Set what the scenario reads from the environment; yield the stand-in, if there is one.

    Errors end the program with one line.
    """
    with ExitStack() as stack:
        try:
            provider = None
            if asked.stand_in or not load_settings().anthropic_api_key:
                provider = _begin_stand_in(stack)
            yield provider
        except TuppenceError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)


def _begin_stand_in(stack: ExitStack) -> FakeAnthropic:
    try:
        from tuppence.testing.answers import text_answer  # noqa: PLC0415 - an extra
        from tuppence.testing.fake_anthropic import FakeAnthropic  # noqa: PLC0415
        from tuppence.testing.serving import serve  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        sys.exit(f'error: {missing.name} is not installed; install "tuppence[testing]"')
    provider = FakeAnthropic(output_tokens=60)
    provider.script(text_answer("好的"), text_answer(FIRST_ANSWER, output_tokens=60))
    os.environ["ANTHROPIC_BASE_URL"] = stack.enter_context(serve(provider))
    os.environ["ANTHROPIC_API_KEY"] = "any-text"
    if not os.environ.get("DATABASE_URL"):
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tuppence-scenario-"))
        os.environ["DATABASE_URL"] = f"sqlite:///{Path(directory) / 'scenario.db'}"
    return provider


def warm_up() -> None:
    """Have the FAQ written into the cache, and book that.

    The document books what its calls read from the cache, not what they write: with the FAQ written
    beforehand its calls read only, and nothing that is billed stays unbooked.
    """
    written = cache.create_cached_message(static_context=faq_doc, dynamic_query="你好")
    usage = written["usage"]
    log = tracker.log_api_usage(
        team_id="customer-service",
        project_id="chatbot-prod",
        model=written["message"]["model"],
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_tokens=usage["cache_read_tokens"],
        cache_write_5m_tokens=usage["cache_write_5m_tokens"],
        cache_write_1h_tokens=usage["cache_write_1h_tokens"],
        task_type="warm_up",
    )
    throttler.record_usage(log.total_cost)


def books() -> Books:
    """Return what both say by now."""
    (total,) = tracker.get_cost_summary()
    return Books(total["total_cost_nanos"], throttler.get_budget_summary()["current_usage_nanos"])


def print_proof(before: Books, provider: FakeAnthropic | None) -> None:
    """Compare what this run has added to the ledger and the throttler, and the provider's book."""
    now = books()
    print("\nproof:")
    print(f"  ledger:      {format_dollars(now.ledger_nanos - before.ledger_nanos, 9)}")
    print(f"  throttler:   {format_dollars(now.throttler_nanos - before.throttler_nanos, 9)}")
    if provider is None:
        return
    first, *queries = provider.book
    written = _cost_nanos(first.usage, first.model)
    as_booked = written + sum(_cost_nanos(one.usage, BOOKED_MODEL) for one in queries)
    as_served = written + sum(_cost_nanos(one.usage, one.model) for one in queries)
    print(f"  stand-in:    {format_dollars(as_booked, 9)} at the prices of the model")
    print(f"               that the document books, {BOOKED_MODEL};")
    print(f"               {format_dollars(as_served, 9)} at those of the one that")
    print(f"               answered, {first.model}")


def _cost_nanos(usage: Usage, model: str) -> int:
    book = load_price_book(load_settings().cache_directory)
    cost = book.cost(usage, model, int(datetime.now(UTC).timestamp()), provider="anthropic")
    assert cost is not None  # noqa: S101 - both models are on the list
    return cost.total_nanos


if __name__ == "__main__":
    asked = arguments()
    with surroundings(asked) as stand_in:
        # The document's own lines again, with the FAQ that it assumes.
        faq_doc = FAQ_DOCUMENT
        tracker = CostTrackingService(database_url=os.getenv("DATABASE_URL"))
        router = ModelRouter(api_key=os.getenv("ANTHROPIC_API_KEY"))
        cache = PromptCache(api_key=os.getenv("ANTHROPIC_API_KEY"))
        throttler = BudgetThrottler(monthly_budget=5000.0)
        with closing(tracker), closing(router), closing(cache), closing(throttler):
            tracker.create_budget(
                entity_type="team", entity_id="customer-service", monthly_limit=5000.0
            )
            booked_before = books()
            warm_up()
            result1 = handle_customer_query(
                user_id="customer-001", query="我忘記密碼了，怎麼辦？", priority="normal"
            )
            print(f"response: {result1['response'][:100]}...")
            print(f"cost: ${result1['cost']:.4f}")
            print(f"cache hit: {result1['cache_hit']}")
            for number in range(1, asked.queries):
                topic = TOPICS[number % len(TOPICS)]
                # No question comes twice: one that did would be written into the cache as well.
                handle_customer_query(
                    CUSTOMERS[number % len(CUSTOMERS)], f"關於{topic}，我的編號是 {number:03}。"
                )
            generate_daily_report()
            print_proof(booked_before, stand_in)
