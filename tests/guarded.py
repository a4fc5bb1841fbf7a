"""Servers of the tests' own: each has a guard process, so that nothing of them is left behind.

The guard owns the server: it stops it and removes its directory as soon as the tests let go of the
guard's input, so even SIGKILL on the tests leaves no process and no file. Run as a program, this
file is the guard.
"""

from __future__ import annotations

import contextlib
import functools
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

_KEEP = "keep"
PATIENCE_SECONDS = 10.0
"""How long a server may take to stop before it is killed."""


class Guarded:
    """A server in a directory of its own; it may be ended and started again."""

    def __init__(
        self, directory: Path, stop_signal: signal.Signals, account: str | None = None
    ) -> None:
        self.directory = directory
        self._stop_signal = stop_signal
        self._account = account or ""
        self._guard: subprocess.Popen[str] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the server runs, or at least its guard."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id."""
        return int((self.directory / "pid").read_text())

    def start(self, command: Sequence[str]) -> None:
        """Start the server; what it says goes into its log."""
        self._guard = subprocess.Popen(
            [
                *(sys.executable, __file__, str(self.directory), self._stop_signal.name),
                *(self._account, *command),
            ],
            stdin=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,  # a Ctrl-C reaches the tests, which then stop the server
        )

    def end(self) -> None:
        """Stop the server with its signal; its files stay."""
        self._release(_KEEP)

    def remove(self) -> None:
        """Stop the server and remove its directory."""
        self._release("")
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of what the server has said."""
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text()[-2_000:]
        return "the server left no log"

    def _release(self, last_word: str) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with contextlib.suppress(BrokenPipeError):  # the server had died and its guard with it
            guard.communicate(last_word + "\n")
        guard.wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def as_account(name: str | None) -> dict[str, Any]:
    """Return what makes subprocess run a program as another account."""
    if not name:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _guard(directory: Path, stop_signal: signal.Signals, account: str, command: list[str]) -> int:
    """Run the server until the tests say so or die; then leave nothing of it."""
    with (directory / "log").open("ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_account(account)
        )
    (directory / "pid").write_text(str(server.pid))
    told: list[str] = []
    listen = functools.partial(_stop_when_told, sys.stdin, server, stop_signal, told)
    threading.Thread(target=listen, daemon=True).start()
    status = server.wait()
    if told and told[0].strip() != _KEEP:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _stop_when_told(
    tests: IO[str], server: subprocess.Popen[bytes], stop_signal: signal.Signals, told: list[str]
) -> None:
    told.append(tests.readline())  # an empty line means that the tests are dead
    server.send_signal(stop_signal)
    try:
        server.wait(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


def main(arguments: list[str]) -> int:
    """Be the guard of a server."""
    directory, stop_signal, account, *command = arguments
    return _guard(Path(directory), signal.Signals[stop_signal], account, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
