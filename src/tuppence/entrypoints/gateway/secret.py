"""The secret that the gateway's keys are hashed with: a setting, or a file beside the ledger."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from tuppence.errors import InvalidInput
from tuppence.settings import Settings
from tuppence.storage.database import Database

FEWEST_CHARACTERS = 32
_SUFFIX = ".key-secret"


def key_secret(database: Database, settings: Settings) -> bytes:
    """Return the secret of a ledger's keys, made and kept for its owner where there is none.

    Raises InvalidInput for one that is too short to be one, or that cannot be read or written.
    """
    if settings.key_secret is not None:
        return _checked(settings.key_secret, "TUPPENCE_KEY_SECRET")
    path = _path(database, settings)
    try:
        _make(path)
        return _checked(path.read_text(encoding="ascii"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"cannot be read or made ({error})",
            field="key secret",
            value=str(path),
            remedy="let this account read and write it, or set TUPPENCE_KEY_SECRET",
        ) from error


def _path(database: Database, settings: Settings) -> Path:
    file = database.url.removeprefix("sqlite:///")
    if file == database.url or file in ("", ":memory:"):
        return settings.key_secret_directory / f"gateway{_SUFFIX}"
    return Path(file + _SUFFIX)


def _make(path: Path) -> None:
    """Write a new secret where there is none; whole or not at all, and one of two at once."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its secret holds
            os.link(draft, path)
    finally:
        draft.unlink()


def _checked(text: str, source: str) -> bytes:
    secret = text.strip()
    if len(secret) < FEWEST_CHARACTERS:
        raise InvalidInput(
            f"has {len(secret)} characters",  # never the secret itself
            field="key secret",
            value=source,
            remedy=f"give {FEWEST_CHARACTERS} or more random characters",
        )
    return secret.encode()
