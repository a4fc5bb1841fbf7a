"""A Redis server of the tests' own: started in a temporary directory, gone without a trace.

Run as a program it prints where the server is, or fails with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Self

READY_WITHIN_SECONDS = 30.0
_KEEP = "keep"


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
    """One running server that keeps nothing on disk; `stop` leaves no process and no file.

    A guard process owns the server: it kills it and removes the directory as soon as this process
    lets go of the guard's input, so even SIGKILL on the tests leaves nothing behind.
    """

    def __init__(self) -> None:
        self._program = find_server()
        self.directory = Path(tempfile.mkdtemp(prefix="tuppence-redis-"))
        self.port = _free_port()
        self._guard: subprocess.Popen[str] | None = None
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

    def start(self) -> None:
        """Start the server, empty, on its port; return when it answers."""
        server = [
            *(str(self._program), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
        ]
        self._guard = subprocess.Popen(
            [sys.executable, __file__, str(self.directory), *server],
            stdin=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,  # a Ctrl-C reaches the tests, which then stop the server
        )
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not self._answers():
            if self._guard.poll() is not None or time.monotonic() > deadline:
                raise RedisBroken((self.directory / "log").read_text()[-2_000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server with SIGKILL; `start` brings it back, empty."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(_KEEP + "\n")

    def suspend(self) -> None:
        """Let the server hang: connections stay, nothing is answered."""
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on; it finds all that was sent to it meanwhile."""
        os.kill(self._pid(), signal.SIGCONT)

    def call(self, *command: str | int) -> Any:
        """Run one command and return its answer."""
        import redis  # noqa: PLC0415 - the guard runs this file too and needs no driver

        with redis.Redis(port=self.port, socket_timeout=10, decode_responses=True) as client:
            return client.execute_command(*command)

    def commands(self) -> dict[str, int]:
        """Return how often each command was called."""
        statistics = self.call("INFO", "commandstats")
        return {name.removeprefix("cmdstat_"): one["calls"] for name, one in statistics.items()}

    def stop(self) -> None:
        """End the server and remove its directory."""
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(BrokenPipeError):  # the server had died and its guard with it
                guard.communicate("\n")
            guard.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _pid(self) -> int:
        return int((self.directory / "pid").read_text())

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 5) as it,
        ):
            it.sendall(b"PING\r\n")
            return it.recv(16).startswith(b"+PONG")
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _guard(directory: Path, command: list[str]) -> int:
    """Run the server until the tests say so or die; then leave nothing of it."""
    with (directory / "log").open("ab") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    (directory / "pid").write_text(str(server.pid))
    told: list[str] = []
    listen = functools.partial(_kill_when_told, sys.stdin, server, told)
    threading.Thread(target=listen, daemon=True).start()
    status = server.wait()
    if told and told[0].strip() != _KEEP:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _kill_when_told(tests: IO[str], server: subprocess.Popen[bytes], told: list[str]) -> None:
    told.append(tests.readline())  # an empty line means that the tests are dead
    server.kill()


def main(arguments: list[str]) -> int:
    """Guard a server when told which; otherwise say where it is."""
    if arguments:
        directory, *command = arguments
        return _guard(Path(directory), command)
    try:
        print(find_server())
    except RedisMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
