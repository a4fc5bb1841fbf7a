"""Keys of the gateway: shown once, kept as a hash, limited, revoked."""

from __future__ import annotations

import asyncio
import json
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.test_command_line import tuppence
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.gateway.keys import (
    FRESH_SECONDS,
    KeyRing,
    KeyWish,
    create_key,
    list_keys,
    revoke_key,
)
from tuppence.entrypoints.gateway.secret import key_secret
from tuppence.errors import InvalidInput
from tuppence.settings import load_settings
from tuppence.storage.threads import DatabaseThreads

SECRET = b"s" * 32


def test_key_is_kept_as_a_hash_only(database_url: str) -> None:
    """What the ledger has of a key must not contain the key, and must find it again."""
    with Ledger.open(database_url) as ledger:
        key, text = create_key(ledger, SECRET, KeyWish(team="support", by="me"))
        (kept,) = list_keys(ledger)
        assert kept == key
        assert text.split("-", 2)[2].encode() not in kept.digest
        assert text not in repr(kept)
        assert text.startswith(f"tpc-{key.id}-")


def test_key_with_a_budget_has_one_on_its_tag(database_url: str) -> None:
    """The limit of a key is a monthly budget that covers its calls alone."""
    with Ledger.open(database_url) as ledger:
        wish = KeyWish(by="me", monthly_budget_nanos=5_000_000_000)
        key, _ = create_key(ledger, SECRET, wish)
        (budget,) = ledger.find_budgets("tag", key.tag)
    assert (budget.limit_nanos, budget.period) == (5_000_000_000, "month")


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "claude-opus-5-5", True),
        (("claude-haiku-*",), "claude-haiku-5-5", True),
        (("claude-haiku-*", "gpt-6-sol"), "claude-opus-5-5", False),
        (("claude-haiku-5-5",), "CLAUDE-HAIKU-5-5", False),
    ],
)
def test_key_allows_the_models_that_it_names(
    sqlite_url: str, patterns: tuple[str, ...], model: str, *, allowed: bool
) -> None:
    """A key without models allows all; else only those that fit a pattern, in its own case."""
    with Ledger.open(sqlite_url) as ledger:
        key, _ = create_key(ledger, SECRET, KeyWish(models=patterns, by="me"))
    assert key.allows(model) == allowed


@pytest.mark.parametrize("models", [("",), ("a b",), ("x\ny",), ("\x00",)])
def test_models_that_cannot_be_are_refused(sqlite_url: str, models: tuple[str, ...]) -> None:
    """A pattern that could not be read back as it was given must be refused."""
    with Ledger.open(sqlite_url) as ledger, pytest.raises(InvalidInput):
        create_key(ledger, SECRET, KeyWish(models=models, by="me"))


async def _found(ring: KeyRing, text: str) -> bool:
    return await ring.find(text) is not None


def test_ring_notices_new_and_revoked_keys_within_a_second(sqlite_url: str) -> None:
    """A key works for FRESH_SECONDS at most after its end, and a wrong one never."""
    clock = [0.0]
    threads = DatabaseThreads(1)
    with Ledger.open(sqlite_url) as ledger, asyncio.Runner() as runner:
        key, text = create_key(ledger, SECRET, KeyWish(by="me"))
        ring = KeyRing(ledger, SECRET, threads, lambda: clock[0])
        assert runner.run(_found(ring, text))
        assert not runner.run(_found(ring, text[:-1]))
        revoke_key(ledger, key.id, "me")
        _, second = create_key(ledger, SECRET, KeyWish(by="me"))
        clock[0] += FRESH_SECONDS
        assert not runner.run(_found(ring, text))
        assert runner.run(_found(ring, second))
    threads.shutdown()


def test_revoking_twice_keeps_the_first_moment(sqlite_url: str) -> None:
    """The audit trail says when a key was revoked, not when somebody tried again."""
    with Ledger.open(sqlite_url) as ledger:
        key, _ = create_key(ledger, SECRET, KeyWish(by="me"))
        first = revoke_key(ledger, key.id, "me")
        assert revoke_key(ledger, key.id, "other") == first
        with pytest.raises(InvalidInput):
            revoke_key(ledger, "none", "me")


def test_secret_is_made_once_for_its_owner_only(tmp_path: Path, sqlite_url: str) -> None:
    """The secret beside the ledger is readable by its owner alone, and stays the same."""
    settings = load_settings({"HOME": str(tmp_path)})
    with Ledger.open(sqlite_url) as ledger:
        secrets = {key_secret(ledger.database, settings) for _ in range(2)}
    path = tmp_path / "ledger.db.key-secret"
    assert secrets == {path.read_bytes()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.glob("*key-secret*")) == [path.name]


def test_secret_of_a_server_s_ledger_is_in_the_data_directory(
    tmp_path: Path, postgresql_url: str
) -> None:
    """A ledger that is no file has its secret in the user's data directory."""
    settings = load_settings({"XDG_DATA_HOME": str(tmp_path)})
    with Ledger.open(postgresql_url) as ledger:
        secret = key_secret(ledger.database, settings)
    assert (tmp_path / "tuppence" / "gateway.key-secret").read_bytes() == secret


def test_secret_that_is_too_short_is_refused_without_being_shown(sqlite_url: str) -> None:
    """A setting that can be guessed must be refused, and not be repeated in the error."""
    settings = load_settings({"TUPPENCE_KEY_SECRET": "guess-me"})
    with Ledger.open(sqlite_url) as ledger, pytest.raises(InvalidInput) as refused:
        key_secret(ledger.database, settings)
    assert "guess-me" not in str(refused.value)


def test_commands_make_list_and_revoke(database_url: str, tmp_path: Path) -> None:
    """`key create` prints the key alone; the list has it without its secret; revoking shows."""
    environment = {"XDG_DATA_HOME": str(tmp_path)}
    made = tuppence(
        *("key", "create", "--team", "support", "--models", "claude-*", "--budget", "5"),
        *("--database", database_url),
        **environment,
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    listed = tuppence("key", "list", "--json", "--database", database_url)
    (row,) = json.loads(listed.stdout)
    assert text.split("-", 2)[2] not in listed.stdout
    assert (row["team"], row["models"], row["revoked_at"]) == ("support", ["claude-*"], None)
    revoked = tuppence("key", "revoke", row["id"], "--database", database_url)
    assert revoked.stdout == f"Key {row['id']} is revoked.\n"
    shown = tuppence("key", "list", "--database", database_url, TUPPENCE_LANGUAGE="zh_TW")
    assert "閘道金鑰" in shown.stdout
    with closing(Ledger.open(database_url)) as ledger:
        assert ledger.find_budgets("tag", row["budget_tag"])
