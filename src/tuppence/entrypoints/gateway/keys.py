"""Keys of the gateway: made, listed, revoked, and recognised by their keyed hash.

A key is `tpc-ID-SECRET`. The ledger has the id and HMAC-SHA256 over the whole key, so that neither
the database nor a backup of it lets anybody call.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuppence.core.attribution import check_name
from tuppence.core.periods import to_micros
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import DatabaseUnreachable, InvalidInput
from tuppence.settings import load_settings
from tuppence.storage.database import Row, Transaction
from tuppence.storage.threads import DatabaseThreads

KEY_TAG = "key="
"""Begins the tag that every call through a key has; no header can set one."""
FRESH_SECONDS = 1.0
"""So long a revoked key may still work, and a new one not yet."""
MOST_MODELS = 100

_COLUMNS = (
    "id, digest, team, project, user_name, models, created_at_micros, created_by, revoked_at_micros"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """A key without its secret."""

    id: str
    digest: bytes
    team: str = ""
    project: str = ""
    user: str = ""
    models: tuple[str, ...] = ()
    """Patterns of models that may be asked, as "claude-haiku-*"; all where there are none."""
    created_at_micros: int
    created_by: str
    revoked_at_micros: int | None = None

    @property
    def tag(self) -> str:
        """The tag of its calls, which its budget is on."""
        return f"{KEY_TAG}{self.id}"

    def allows(self, model: str) -> bool:
        """Tell whether a model may be asked through it."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """What a new key is to be."""

    team: str = ""
    project: str = ""
    user: str = ""
    models: Sequence[str] = ()
    monthly_budget_nanos: int | None = None
    """Of the key alone; None for none."""
    by: str


def create_key(ledger: Ledger, secret: bytes, wish: KeyWish) -> tuple[GatewayKey, str]:
    """Make a key; return it, and the text that opens the gateway and is never shown again.

    Raises InvalidInput for names or models that cannot be.
    """
    for field in ("team", "project", "user", "by"):
        check_name(field, getattr(wish, field))
    key_id = secrets.token_hex(5)
    text = f"tpc-{key_id}-{secrets.token_urlsafe(32)}"
    key = GatewayKey(
        id=key_id,
        digest=digest_of(secret, text),
        team=wish.team,
        project=wish.project,
        user=wish.user,
        models=_checked_models(wish.models),
        created_at_micros=to_micros(ledger.now()),
        created_by=wish.by,
    )
    if wish.monthly_budget_nanos is not None:  # first: no key may be there without its limit
        ledger.create_budget(_budget(key, wish.monthly_budget_nanos), by=wish.by)
    ledger.database.run(_insert, key)
    return key, text


def list_keys(ledger: Ledger) -> list[GatewayKey]:
    """Return all keys that there have been, the oldest first."""
    return ledger.database.read(_all)


def revoke_key(ledger: Ledger, key_id: str, by: str) -> GatewayKey:
    """Let a key open nothing any more; its calls stay booked. Raises InvalidInput without one."""
    key = ledger.database.run(_revoke, key_id, to_micros(ledger.now()), by)
    if key is None:
        raise InvalidInput(
            "is the id of no key", field="ID", value=key_id, remedy="see: tuppence key list"
        )
    return key


def digest_of(secret: bytes, text: str) -> bytes:
    """Return the keyed hash of a key."""
    return hmac.digest(secret, text.encode(errors="surrogateescape"), hashlib.sha256)


class KeyRing:
    """Recognises keys; the ledger is asked at most once in FRESH_SECONDS, however many come."""

    def __init__(
        self,
        ledger: Ledger,
        secret: bytes,
        threads: DatabaseThreads,
        seconds: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._secret = secret
        self._threads = threads
        self._seconds = seconds
        self._read_at = seconds()
        self._keys = _by_digest(list_keys(ledger))
        self._seen: dict[str, GatewayKey] = {}
        """Keys that opened since then, so that a busy one is hashed once."""

    def __len__(self) -> int:
        return len(self._keys)

    async def find(self, text: str) -> GatewayKey | None:
        """Return the key of a text, None for what is none, or is revoked."""
        now = self._seconds()
        if now - self._read_at >= FRESH_SECONDS:
            self._read_at = now
            self._seen.clear()
            with suppress(DatabaseUnreachable):  # those known last go on
                self._keys = _by_digest(await self._threads.call(list_keys, self._ledger))
        if text in self._seen:
            return self._seen[text]
        # Looked up by a hash with a secret: how long that takes tells nothing about keys.
        key = self._keys.get(digest_of(self._secret, text))
        if key is not None:  # a flood of wrong ones must not fill the memory
            self._seen[text] = key
        return key


def _by_digest(keys: Sequence[GatewayKey]) -> dict[bytes, GatewayKey]:
    return {one.digest: one for one in keys if one.revoked_at_micros is None}


def _budget(key: GatewayKey, limit_nanos: int) -> NewBudget:
    settings = load_settings()
    return NewBudget(
        "tag", key.tag, limit_nanos, settings.warning_threshold, settings.critical_threshold
    )


def _checked_models(models: Sequence[str]) -> tuple[str, ...]:
    patterns = tuple(dict.fromkeys(models))
    for pattern in patterns:
        check_name("models", pattern)
        if not pattern or any(sign.isspace() for sign in pattern) or len(patterns) > MOST_MODELS:
            raise InvalidInput(
                "is not a list of models",
                field="models",
                value=",".join(patterns),
                remedy=f"give at most {MOST_MODELS} names, as claude-haiku-5-5,gpt-6-*",
            )
    return patterns


def _insert(tx: Transaction, key: GatewayKey) -> None:
    tx.execute(
        "INSERT INTO gateway_keys (id, digest, team, project, user_name, models, "
        "created_at_micros, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(key.id, key.digest, key.team, key.project, key.user, "\n".join(key.models)),
            *(key.created_at_micros, key.created_by),
        ),
    )


def _all(tx: Transaction) -> list[GatewayKey]:
    rows = tx.rows(f"SELECT {_COLUMNS} FROM gateway_keys ORDER BY created_at_micros, id")
    return list(map(_key_of, rows))


def _revoke(tx: Transaction, key_id: str, now_micros: int, by: str) -> GatewayKey | None:
    tx.execute(
        "UPDATE gateway_keys SET revoked_at_micros = ?, revoked_by = ? "
        "WHERE id = ? AND revoked_at_micros IS NULL",
        (now_micros, by, key_id),
    )
    rows = tx.rows(f"SELECT {_COLUMNS} FROM gateway_keys WHERE id = ?", (key_id,))
    return _key_of(rows[0]) if rows else None


def _key_of(row: Row) -> GatewayKey:
    key_id, digest, team, project, user, models, created_at, created_by, revoked_at = row
    return GatewayKey(
        id=key_id,
        digest=bytes(digest),
        team=team,
        project=project,
        user=user,
        models=tuple(models.split()),
        created_at_micros=created_at,
        created_by=created_by,
        revoked_at_micros=revoked_at,
    )
