"""The gateway's OpenAPI document, made from its routes: what it serves, asks for and refuses.

Bodies of calls are the providers' own, which describe them; here is only what the gateway reads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tuppence.entrypoints.gateway.replies import Provider
from tuppence.entrypoints.gateway.routes import Duty, Route, every_route

OPENAPI_PATH = "/openapi.json"
_Document = dict[str, Any]

_ERRORS = {
    "400": "The body is no JSON object, has no model, or a header is no name.",
    "401": "No key, an unknown or a revoked one.",
    "404": "No such route, model or id; a provider without a key.",
    "408": "The request did not come in time.",
    "413": "The body is larger than the gateway or the provider takes.",
    "415": "The body is compressed, or of another type than the provider takes.",
    "429": "A budget has no room (with `x-should-retry: false`), or the provider is busy.",
    "431": "The headers are too large.",
    "502": "The provider cannot be reached, or broke off.",
    "503": "The ledger cannot be reached, or there are too many large requests at once.",
    "504": "The provider did not answer in time.",
    "4XX": "Other errors of the provider, unchanged.",
    "5XX": "Other errors of the provider, unchanged.",
}
_TEXT = {"type": "string"}
_HEADERS_BACK = {
    "x-tuppence-model": "The model that was asked.",
    "x-tuppence-upstream": "The name of the upstream that answered.",
    "x-tuppence-attempts": "How many attempts there were, where there was more than one.",
    "x-tuppence-cost": "What the call cost, in dollars with nine decimals.",
    "x-tuppence-budget-left": "The least that any budget has left which covers the call.",
    "x-tuppence-cache": "Tokens read from and written to the prompt cache.",
}
_HEADERS_SENT = {
    "x-tuppence-team": "Who pays, where the key does not say.",
    "x-tuppence-project": "For what, where the key does not say.",
    "x-tuppence-user": "For whom, where the key does not say.",
    "x-tuppence-session": "The session.",
    "x-tuppence-tags": "More tags, with commas between.",
}


@cache
def openapi_document() -> _Document:
    """Return what the gateway serves, as OpenAPI 3.1 says it."""
    paths: dict[str, _Document] = {OPENAPI_PATH: {"get": _public("This document")}}
    for path in ("/", "/health"):
        paths[path] = {"get": _public("Whether the gateway serves")}
    for method, path, route in every_route():
        operation = _operation(path, route)
        paths.setdefault(path.replace("*", "{id}"), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "tuppence gateway", "version": "1"},
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {"anthropic": _anthropic_error(), "openai": _openai_error()},
        },
    }


def _public(summary: str) -> _Document:
    """Return an operation without a key."""
    content = {"application/json": {"schema": {"type": "object"}}}
    answer = {"description": summary, "content": content}
    return {"summary": summary, "security": [], "responses": {"200": answer}}


def _operation(path: str, route: Route) -> _Document:
    """Return what a route takes and gives."""
    is_of_both = path.startswith("/v1/models")
    providers: tuple[Provider, ...] = ("anthropic", "openai") if is_of_both else (route.provider,)
    operation: _Document = {
        "tags": list(providers),
        "parameters": _parameters(path, route),
        "responses": {"2XX": _answer(route), **_refusals(providers)},
    }
    if path in _BODIES:
        content = {"application/json": {"schema": _BODIES[path]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif path == "/v1/files":
        operation["description"] = "A new file is sent as multipart/form-data."
    return operation


def _parameters(path: str, route: Route) -> list[_Document]:
    parameters: list[_Document] = []
    if "*" in path:
        schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
        parameters.append({"name": "id", "in": "path", "required": True, "schema": schema})
    if route.duty is Duty.CALL:
        name_schema = {"type": "string", "maxLength": 255}
        parameters += [
            {"name": name, "in": "header", "description": meaning, "schema": name_schema}
            for name, meaning in _HEADERS_SENT.items()
        ]
    return parameters


def _answer(route: Route) -> _Document:
    """Return the provider's own answer, as far as the gateway has a part in it."""
    answer: _Document = {"description": "What the provider answers, unchanged"}
    if route.duty is Duty.CALL:
        answer["content"] = {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": _TEXT},
        }
        answer["headers"] = {
            name: {"description": meaning, "schema": _TEXT}
            for name, meaning in _HEADERS_BACK.items()
        }
    return answer


def _refusals(providers: tuple[Provider, ...]) -> _Document:
    """Return the errors of the gateway and of the provider, which have one shape."""
    shapes = [{"$ref": f"#/components/schemas/{provider}"} for provider in providers]
    content = {"application/json": {"schema": {"anyOf": shapes}}}
    return {
        status: {"description": meaning, "content": content} for status, meaning in _ERRORS.items()
    }


def _object(properties: _Document, *required: str) -> _Document:
    return {"type": "object", "properties": properties, "required": list(required)}


def _anthropic_error() -> _Document:
    error = _object({"type": _TEXT, "message": _TEXT}, "type", "message")
    return _object({"type": {"const": "error"}, "error": error}, "type", "error")


def _openai_error() -> _Document:
    error = _object({"message": _TEXT, "type": _TEXT}, "message", "type")
    return _object({"error": error}, "error")


def _asked(*required: str) -> _Document:
    """Return what every call of a model has."""
    known: _Document = {
        "model": {"type": "string", "examples": ["claude-opus-5-5", "gpt-6-sol"]},
        "messages": {"type": "array", "items": {"type": "object"}},
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": {"type": "boolean"},
    }
    return _object(known, "model", *required)


_BODIES: dict[str, _Document] = {
    "/v1/messages": _asked("messages", "max_tokens"),
    "/v1/messages/count_tokens": _asked("messages"),
    "/v1/chat/completions": _asked("messages"),
    "/v1/responses": _asked("input"),
    "/v1/embeddings": _asked("input"),
}
