"""Requests made up from the gateway's own OpenAPI document: no answer that it does not describe."""

from __future__ import annotations

from copy import deepcopy
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.gateways import SECRET, World
from tuppence.entrypoints.gateway.openapi import openapi_document
from tuppence.entrypoints.gateway.routes import every_route, route_of

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES_EACH = 15
METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


def _paths() -> dict[str, dict[str, Any]]:
    return {path: dict(one) for path, one in openapi_document()["paths"].items()}


def test_document_and_routes_say_the_same() -> None:
    """Each operation of the document is served, each route is in it, and no other method is."""
    routes = {(method, path.replace("*", "{id}")) for method, path, _ in every_route()}
    free = {("GET", "/"), ("GET", "/health"), ("GET", "/openapi.json")}
    documented = {(method.upper(), path) for path, one in _paths().items() for method in one}
    assert documented == routes | free
    for path in _paths():
        for method in METHODS:
            served = route_of(method.upper(), path.replace("{id}", "an-id"), {}) is not None
            assert served == ((method.upper(), path) in routes), (method, path)


def test_document_is_served_without_a_key(world: World) -> None:
    """Whoever reaches the gateway can read what it serves."""
    world.key()
    with world.serve() as base_url:
        connection = HTTPConnection(base_url.removeprefix("http://"))
        connection.request("GET", "/openapi.json")
        answer = connection.getresponse()
        served = msgspec.json.decode(answer.read())
        connection.close()
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert served == openapi_document()


def test_no_made_up_request_gets_an_answer_that_is_not_described(world: World) -> None:
    """Good and bad requests to every operation: no 5xx, and each answer as the document says."""
    _, text = world.key()
    with world.serve() as base_url:
        schema = schemathesis.openapi.from_dict(deepcopy(openapi_document()))
        operations = [one.ok() for one in schema.get_all_operations()]
        tried = sum(_try(operation, base_url, text) for operation in operations)
    assert len(operations) == sum(len(one) for one in _paths().values())
    assert tried >= len(operations) * 5


def _try(operation: Any, base_url: str, key: str) -> int:
    """Ask made-up requests; return how many."""
    tried: list[int] = []
    modes = [operation.as_strategy(generation_mode=one) for one in schemathesis.GenerationMode]

    @seed(6)
    @settings(
        max_examples=EXAMPLES_EACH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(modes))
    def ask(case: Any) -> None:
        """Ask one with a key, and check its answer."""
        case.headers = {**(case.headers or {}), "authorization": f"Bearer {key}"}
        answer = case.call(base_url=base_url)
        tried.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    return len(tried)
