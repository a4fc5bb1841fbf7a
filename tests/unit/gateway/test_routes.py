"""Whose client a request comes from."""

from __future__ import annotations

import pytest

from tuppence.entrypoints.gateway.routes import provider_of


@pytest.mark.parametrize(
    ("path", "headers", "provider"),
    [
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages/batches", {"authorization": "Bearer k"}, "anthropic"),
        ("/v1/chat/completions", {"x-api-key": "k"}, "openai"),
        ("/v1/responses", {"anthropic-version": "2023-06-01"}, "openai"),
        ("/v1/embeddings", {}, "openai"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "anthropic"),
        ("/v1/models", {"authorization": "Bearer k"}, "openai"),
    ],
)
def test_the_path_says_whose_client_asks_and_else_its_headers(
    path: str, headers: dict[str, str], provider: str
) -> None:
    """An interface that one provider has is answered in that provider's shape, whatever is sent."""
    assert provider_of(path, headers) == provider
