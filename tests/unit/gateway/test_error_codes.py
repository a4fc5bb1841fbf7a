"""Every error that the gateway answers with is in its reference."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "tuppence" / "entrypoints" / "gateway"
REFERENCE = (ROOT / "docs" / "reference" / "gateway.md").read_text(encoding="utf-8")


def _codes() -> set[str]:
    """Return the codes that refusals are made with: the third argument of each."""
    codes = {"provider_unreachable"}  # named where UpstreamDown makes itself a refusal
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_refusal = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal"
            if is_refusal and isinstance(node.args[2], ast.Constant):
                codes.add(str(node.args[2].value))
    return codes


def test_every_error_code_is_documented() -> None:
    """Whoever meets a code finds what it means; a new one without a line fails here."""
    codes = _codes()
    assert {"budget_exceeded", "invalid_http", "busy"} <= codes
    assert {code for code in codes if f"`{code}`" not in REFERENCE} == set()
