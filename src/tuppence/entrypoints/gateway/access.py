"""Who may call, and who pays: a key goes before headers, which fill in what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from tuppence.entrypoints.gateway.keys import KEY_TAG, GatewayKey, KeyRing
from tuppence.entrypoints.gateway.replies import Refusal
from tuppence.governing.scope import Payment, payment_of

HEADER_PREFIX = "x-tuppence-"
SESSION_HEADERS = ("x-tuppence-session", "x-claude-code-session-id")
AGENT_HEADER = "x-claude-code-agent-id"


async def key_of(headers: Mapping[str, str], ring: KeyRing) -> GatewayKey:
    """Return the key of a request; raise Refusal for one without a key that opens."""
    credentials = list(credentials_of(headers))
    for text in credentials:
        key = await ring.find(text)
        if key is not None:
            return key
    if not credentials:
        raise Refusal(
            401,
            "No key: send a key of this gateway as x-api-key or as Authorization: Bearer",
            "missing_key",
        )
    raise Refusal(
        401, "This key does not open the gateway: it is unknown or was revoked", "invalid_key"
    )


def refuse_web_pages(headers: Mapping[str, str]) -> None:
    """Raise Refusal for a request that a web page makes.

    Where no key is asked for, any page that is open on this machine could spend money: a browser
    sends such a request without asking, and only keeps its answer from the page.
    """
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise Refusal(
            403, "This gateway has no keys, so it does not answer web pages", "web_page_refused"
        )


def credentials_of(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield what may be a key: old and new SDKs use different headers, some send both."""
    if headers.get("x-api-key"):
        yield headers["x-api-key"]
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()


def payment_for(headers: Mapping[str, str], key: GatewayKey | None) -> Payment:
    """Return who pays for a call. Raises Refusal for a tag of a key, InvalidInput for no name."""
    return _payment(
        headers.get("x-tuppence-team", ""),
        headers.get("x-tuppence-project", ""),
        headers.get("x-tuppence-user", ""),
        next((headers[name] for name in SESSION_HEADERS if headers.get(name)), ""),
        headers.get(AGENT_HEADER, ""),
        headers.get("x-tuppence-tags", ""),
        key,
    )


@lru_cache(maxsize=10_000)
def _payment(
    team: str, project: str, user: str, session: str, agent: str, tags: str, key: GatewayKey | None
) -> Payment:
    names = [name for tag in tags.split(",") if (name := tag.strip())]
    if any(name.startswith(KEY_TAG) for name in names):
        raise Refusal(400, f"x-tuppence-tags: tags {KEY_TAG}... are set by keys", "invalid_request")
    told = payment_of(team, project, user, session, agent, "", names, "")
    if key is None:
        return told
    return told.within(payment_of(key.team, key.project, key.user, "", "", "", (key.tag,), ""))


def check_model(key: GatewayKey | None, model: object) -> None:
    """Raise Refusal for a model that a key does not allow.

    404, as providers answer for models that an account does not have. Claude Code then asks once
    more, without a stream, and says so. At 403 it speaks of a failed login, at 400 it asks four
    times.
    """
    if key is not None and isinstance(model, str) and not key.allows(model):
        allowed = ", ".join(key.models)
        raise Refusal(
            404,
            f"model {model!r} may not be asked with this key; it may ask {allowed}",
            "model_not_allowed",
        )
