"""A Redis server of the tests' own: started in a temporary directory, gone without a trace.

Run as a module it prints where the server is, or fails with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import redis

from tests.guarded import Guarded, free_port

READY_WITHIN_SECONDS = 30.0


class RedisMissing(Exception):
    """The server is not on this machine; the message says what to install."""


class RedisBroken(Exception):
    """The server did not start; the message carries the end of its log."""


def find_server() -> Path:
    """Return the server's program: Redis, or Valkey which speaks the same."""
    for name in ("redis-server", "valkey-server"):
        if on_path := shutil.which(name):
            return Path(on_path)
    raise RedisMissing(
        "redis-server was not found; run scripts/install_servers.sh or install the package redis"
    )


class RedisServer:
    """One running server that keeps nothing on disk; `stop` leaves no process and no file."""

    def __init__(self) -> None:
        self._program = find_server()
        directory = Path(tempfile.mkdtemp(prefix="tuppence-redis-"))
        self._process = Guarded(directory, signal.SIGKILL)
        self.port = free_port()
        try:
            self.start()
        except BaseException:  # Ctrl-C during the start must not leave the directory behind either
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The server's address as a user would write it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        """Where the server's files are."""
        return self._process.directory

    def start(self) -> None:
        """Start the server, empty, on its port; return when it answers."""
        self._process.start(
            [
                *(str(self._program), "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
            ]
        )
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not self._answers():
            if not self._process.is_running or time.monotonic() > deadline:
                raise RedisBroken(self._process.log_tail())
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server with SIGKILL; `start` brings it back, empty."""
        self._process.end()

    def suspend(self) -> None:
        """Let the server hang: connections stay, nothing is answered."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on; it finds all that was sent to it meanwhile."""
        os.kill(self._process.pid, signal.SIGCONT)

    def call(self, *command: str | int) -> Any:
        """Run one command and return its answer."""
        with redis.Redis(port=self.port, socket_timeout=10, decode_responses=True) as client:
            return client.execute_command(*command)

    def commands(self) -> dict[str, int]:
        """Return how often each command was called."""
        statistics = self.call("INFO", "commandstats")
        return {name.removeprefix("cmdstat_"): one["calls"] for name, one in statistics.items()}

    def stop(self) -> None:
        """End the server and remove its directory."""
        self._process.remove()

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 5) as it,
        ):
            it.sendall(b"PING\r\n")
            return it.recv(16).startswith(b"+PONG")
        return False


def main() -> int:
    """Say where the server is."""
    try:
        print(find_server())
    except RedisMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
