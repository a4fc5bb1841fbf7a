"""Redis as a place for what may be lost: scripts in one exchange, given up on when it hangs.

Callers that come together share one exchange, as they share a commit. Everything is kept under the
server's own run id: what a restart has restored from an older state, or what a replica has that
took over, is never read. A server that fails is left alone until `probe` finds it well again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import RedisError
from redis.retry import Retry

from tuppence.errors import InvalidInput

TIMEOUT_SECONDS = 0.025
"""How long an answer may take: what a hanging server costs the calls that find out."""
CONNECT_SECONDS = 0.025

SCRIPTS = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "lua").glob("*.lua")}
_DIGESTS = {
    name: hashlib.sha1(text, usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()
}

Command: TypeAlias = tuple[Any, ...]


class RedisLostError(Exception):
    """The server did not answer; what was sent may have been carried out."""


def script(name: str, keys: Sequence[str], *arguments: object) -> Command:
    """Return the command that runs a script."""
    return ("EVALSHA", _DIGESTS[name], len(keys), *keys, *arguments)


class RedisScripts:
    """A connection to Redis. `exchange` is for one thread at a time."""

    def __init__(self, url: str) -> None:
        try:
            self._pool = ConnectionPool.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"is not the address of a Redis server ({error})",
                field="redis_url",
                value=_without_password(url),
                remedy="write redis://host:6379/0",
            ) from error
        self._lock = threading.Lock()
        self._connection: Any = None  # its methods have no types
        self._process = os.getpid()
        self.run_id = ""
        """Which life of which server the connection goes to; empty while there is none."""

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands together and return their answers; raise RedisLostError."""
        with self._lock:
            connection = self._connection
            if connection is None or self._process != os.getpid():
                self.run_id = ""
                raise RedisLostError
            try:
                return _exchanged(connection, commands)
            except (RedisError, OSError) as error:
                self._give_up()
                raise RedisLostError(str(error)) from error

    def probe(self) -> bool:
        """Connect where there is no connection; return whether there is one now."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                return True
            self._process = os.getpid()
            connection: Any = self._pool.connection_class(**self._pool.connection_kwargs)
            try:
                connection.connect()
                loads = [("SCRIPT", "LOAD", text) for text in SCRIPTS.values()]
                info = _exchanged(connection, [*loads, ("INFO", "server")])[-1]
            except (RedisError, OSError):
                connection.disconnect()
                return False
            self.run_id = _run_id(info)
            self._connection = connection
            return True

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._give_up()

    def _give_up(self) -> None:
        connection, self._connection, self.run_id = self._connection, None, ""
        if connection is not None:
            connection.disconnect()


def _exchanged(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response() for _ in commands]


def _run_id(info: bytes) -> str:
    lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return lines["run_id"]


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
