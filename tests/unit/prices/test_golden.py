"""The shared golden cases, worked out by others from hand-written rates, are met exactly."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from tests.unit.prices.golden_document import documented_rows
from tuppence.core.usage import TOKEN_FIELDS, Terms, Usage
from tuppence.prices.catalogue import load_price_book


@pytest.fixture(scope="module")
def cases(shared_data):
    """Return the shared cases."""
    return json.loads((shared_data / "golden-prices.json").read_text(encoding="utf-8"))


def terms_of(case):
    """Return the terms of a case."""
    return Terms(
        processing="batch" if case.get("batch") else "",
        speed=case.get("speed", ""),
        inference_geo=case.get("inference_geo", ""),
    )


def test_every_golden_case_is_met_exactly(cases):
    """Each case costs its nano-dollars, not one more and not one less."""
    book = load_price_book()
    wrong = []
    for case in cases:
        usage = Usage(**{name: case.get(name, 0) for name in TOKEN_FIELDS})
        at_seconds = int(datetime.fromisoformat(case["at"]).timestamp())
        cost = book.cost(usage, case["model"], at_seconds, terms=terms_of(case))
        if cost is None or cost.total_nanos != case["cost_nanos"]:
            wrong.append((case["name"], case["cost_nanos"], cost))
    assert wrong == []
    assert len(cases) >= 17


def test_the_documentation_holds_every_golden_case(cases):
    """The document's first table is the shared file: same names, same costs."""
    documented = {(row["name"], row["cost_nanos"].replace(",", "")) for row in documented_rows()}
    cases = {(case["name"], str(case["cost_nanos"])) for case in cases}
    assert set() == cases - documented
