"""`tuppence prices` as users run it: a process of its own, its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from tuppence.core.attribution import Attribution
from tuppence.core.periods import to_micros
from tuppence.core.usage import MeteredPart, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger

PROGRAM = "from tuppence.entrypoints.cli import main; main()"
RATES = {
    "input_cost_per_token": 5e-06,
    "output_cost_per_token": 2.5e-05,
    "cache_creation_input_token_cost": 6.25e-06,
    "cache_creation_input_token_cost_above_1hr": 1e-05,
    "cache_read_input_token_cost": 5e-07,
    "output_cost_per_token_batches": 1.25e-05,
    "search_context_cost_per_query": {"search_context_size_medium": 0.01},
    "provider_specific_entry": {"us": 1.1},
    "litellm_provider": "anthropic",
}


@pytest.fixture
def prices(tmp_path):
    """Run `tuppence prices` with a ledger of its own on a terminal of 80 columns."""
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "COLUMNS": "80",
        "TUPPENCE_LANGUAGE": "en",
        "NO_COLOR": "1",
        "PYTHONUTF8": "1",
    }

    def run(*words, code=0, program=PROGRAM):
        done = subprocess.run(
            [sys.executable, "-c", program, "prices", *map(str, words)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=120,
            check=False,
        )
        assert code == done.returncode, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 or done.stdout else done.stderr

    return run


@pytest.fixture
def table(tmp_path):
    """Return a file in LiteLLM's form with these rows."""

    def write(rows):
        path = tmp_path / "prices.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


def test_show_draws_tiers_and_terms_in_80_columns(prices):
    """Every class, tier and way of serving is readable on a small terminal, with its source."""
    text = prices("show", "claude-haiku-5-5", "--at", "2026-11-01")
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("0.625", "0.0625", "100,000", "US inference", "genai-prices", "web_searches"):
        assert expected in text


def test_show_tells_how_prices_changed(prices):
    """Without a date the history follows: when, what, from which price to which."""
    text = prices("show", "claude-sonnet-5-5")
    assert "2026-10-07T00:00  cache_read_tokens: $0.2 → $0.1" in text


def test_show_as_json_has_exact_decimals(prices):
    """Prices are decimal texts per so many units, so that no reader rounds them."""
    document = json.loads(prices("show", "gpt-6-sol", "--at", "2026-11-01", "--json"))
    lines = {
        (p["way"], p["unit"], p["above"]): (p["dollars"], p["per"]) for p in document["prices"]
    }
    assert lines["standard", "input_tokens", 272_000] == ("4", 1_000_000)
    assert lines["batch", "cache_read_tokens", 0] == ("0.1", 1_000_000)
    assert lines["standard", "web_searches", 0] == ("10", 1_000)
    assert document["contracts"] == []


def test_show_of_an_unknown_model_fails_and_names_close_ones(prices):
    """The error names the model, what may have been meant, and what to do; exit code 1."""
    text = prices("show", "claude-sonet-5-5", code=1)
    assert "claude-sonet-5-5" in text
    assert "claude-sonnet-5-5" in text
    assert "prices set" in text


def test_show_refuses_what_is_no_date(prices):
    """A date that is none is a mistake in the call: exit code 2."""
    assert "at='yesterday'" in prices("show", "claude-opus-5", "--at", "yesterday", code=2)


def test_set_adds_dated_prices_and_keeps_the_old_ones(prices):
    """A new price holds from its date on, 00:00 UTC; before that the older one still holds."""
    prices("set", "claude-opus-5", "--input", "4", "--from", "2026-09-01")
    text = prices("set", "claude-opus-5", "--input", "3", "--output", "15", "--from", "2026-10-01")
    assert "Your price: input_tokens $3 (list: $5)" in text
    inputs = []
    for moment in ("2026-08-31T23:59:59Z", "2026-09-01", "2026-09-30T23:59:59Z", "2026-10-01"):
        document = json.loads(prices("show", "claude-opus-5", "--at", moment, "--json"))
        inputs.append(document["prices"][0]["dollars"])
    assert inputs == ["5", "4", "4", "3"]


def test_set_takes_every_kind_of_price(prices):
    """Options for the usual prices, --price KEY=DOLLARS for all others; tiers keep proportion."""
    words = ["--cache-read", "0.005", "--cache-write-5m", "0.1", "--cache-write-1h", "0.1"]
    document = json.loads(
        prices("set", "claude-haiku-5-5", *words, "--price", "web_searches_kcount=8", "--json")
    )
    lines = {(p["way"], p["unit"], p["above"]): p["dollars"] for p in document["prices"]}
    assert lines["standard", "cache_read_tokens", 100_000] == "0.025"
    assert lines["batch", "cache_write_1h_tokens", 0] == "0.05"
    assert lines["standard", "web_searches", 0] == "8"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--input", "-1"], "input_mtok='-1'"),
        (["--input", "nan"], "input_mtok='nan'"),
        (["--price", "nonsense_mtok=1"], "'nonsense_mtok'"),
        (["--price", "input_mtok"], "'input_mtok'"),
        (["--input", "1", "--from", "soon"], "'soon'"),
        ([], "prices"),
    ],
)
def test_set_refuses_what_is_no_price(prices, words, named):
    """The error names the field and the value; nothing is written; exit code 2."""
    assert named in prices("set", "my-model", *words, code=2)
    prices("show", "my-model", code=1)


def test_check_finds_no_difference_in_an_equal_table(prices, table):
    """Equal prices are equal exactly, through floats in the file and fractions in the book."""
    text = prices("check", "--against", table({"claude-opus-5": RATES}), "--strict")
    assert "0 differ" in text


def test_check_lists_every_difference_and_fails_when_strict(prices, table):
    """A difference is shown with both prices; --strict makes it the exit code 1."""
    rows = {"claude-opus-5": RATES | {"input_cost_per_token": 6e-06}, "claude-new": RATES}
    path = table(rows)
    text = prices("check", "--against", path)
    assert max(map(len, text.splitlines()[:8])) <= 80
    for expected in ("claude-opus-5", "$5", "$6", "+20.0%", "(1): claude-new"):
        assert expected in text
    (document,) = json.loads(prices("check", "--against", path, "--strict", "--json", code=1))
    units = {(row["unit"], row["terms"]) for row in document["differences"]}
    assert units == {("input_tokens", None), ("input_tokens", "inference_geo=us")}
    assert document["only_theirs"] == ["claude-new"]


def test_check_compares_tiers_that_only_one_side_has(prices, table):
    """A surcharge that the other table does not have is a difference."""
    tiered = {"input_cost_per_token": 5e-06, "input_cost_per_token_above_200k_tokens": 1e-05}
    path = table({"claude-opus-5": tiered})
    (document,) = json.loads(prices("check", "--against", path, "--json"))
    (difference,) = document["differences"]
    assert (difference["above"], difference["ours"], difference["theirs"]) == (200_000, "5", "10")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"a": {"b": 1}}', '{"a": {"history": [1]}}'])
def test_check_refuses_a_file_that_is_no_table(prices, tmp_path, content):
    """A file of another form is named, with the form that is wanted; exit code 2."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    assert "against=" in prices("check", "--against", path, code=2)


def test_check_refuses_an_unknown_provider_and_a_missing_file(prices, tmp_path):
    """Both are mistakes in the call: exit code 2."""
    assert "'nobody'" in prices("check", "--provider", "nobody", code=2)
    assert "absent.json" in prices("check", "--against", tmp_path / "absent.json", code=2)


def test_check_against_the_package_model_prices(prices):
    """The book agrees with model-prices on every Claude model of October 2026, exactly."""
    pytest.importorskip("model_prices", reason="model-prices is not installed: make test has it")
    text = prices("check", "--at", "2026-10-30", "--strict")
    assert "0 differ" in text


def test_check_without_the_package_names_what_to_install(prices):
    """The package is optional: without it the error says how to get it or do without."""
    without = f"import sys; sys.modules['model_prices'] = None; {PROGRAM}"
    text = prices("check", code=2, program=without)
    assert "pip install model-prices" in text
    assert "--against" in text


def test_check_against_the_two_shared_sources(prices, shared_data):
    """LiteLLM's map agrees; the list itself differs in the surcharge that has ended, only there."""
    path = shared_data / "claude-prices-two-sources-2026-11-23.json"
    results = json.loads(prices("check", "--against", path, "--at", "2026-11-23", "--json"))
    differing = {r["source"].split("_")[0]: r["differences"] for r in results}
    assert differing["litellm"] == []
    where = {(one["model"], one["above"]) for one in differing["genai"]}
    assert where == {("claude-sonnet-4-5", 200_000)}


def book_unknown_calls(path, models):
    """Book one call of 1,000 input tokens for each model, on 2026-10-05."""
    ledger = Ledger.open(f"sqlite:///{path}")
    at = to_micros(datetime(2026, 10, 5, tzinfo=UTC))
    parts = [(MeteredPart(model, Usage(input_tokens=1_000)),) for model in models]
    ledger.book([Call(at, Attribution(), None, part) for part in parts])
    ledger.close()


def test_reprice_prices_what_had_no_price(prices, tmp_path):
    """After a price is set for their date, unpriced calls are booked; once, not twice."""
    book_unknown_calls(tmp_path / "ledger.db", ["my-model", "other-model"])
    prices("set", "my-model", "--input", "2", "--output", "4", "--from", "2026-10-01")
    done = json.loads(prices("reprice", "--json"))
    assert (done["looked_at"], done["changed"], done["still_unpriced"]) == (2, 1, 1)
    assert done["difference_nanos"] == 2_000_000
    again = prices("reprice")
    assert "0 changed, 1 still unpriced" in again
    assert "$0.0000" in again


def test_reprice_all_rates_priced_calls_again(prices, tmp_path):
    """With --all a contract agreed on later applies to calls of its time, within the span."""
    book_unknown_calls(tmp_path / "ledger.db", ["claude-opus-5"])
    prices("set", "claude-opus-5", "--input", "4", "--from", "2026-10-01")
    assert json.loads(prices("reprice", "--json"))["looked_at"] == 0
    outside = prices("reprice", "--all", "--since", "2026-10-06", "--json")
    assert json.loads(outside)["looked_at"] == 0
    done = json.loads(prices("reprice", "--all", "--since", "2026-10-05", "--json"))
    assert done["difference_nanos"] == -1_000_000


def test_reprice_refuses_a_reversed_period(prices):
    """A period that ends before it begins is a mistake in the call: exit code 2."""
    text = prices("reprice", "--since", "2026-10-06", "--until", "2026-10-05", code=2)
    assert "give the earlier date first" in text


def test_no_or_an_unknown_command_shows_what_there_is(prices):
    """Without a subcommand, or with an unknown one, the exit code is 2."""
    assert "reprice" in prices(code=2)
    assert "No such command" in prices("nonsense", code=2)
