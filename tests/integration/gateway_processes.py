"""A gateway as users run it: `tuppence serve` in processes that a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.gateways import PATIENCE_SECONDS, PROVIDER_KEY, SECRET

_POLL_SECONDS = 0.01


def until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Return when something is so that another process brings about; fail after a while."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(_POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


class GatewayProcess:
    """`tuppence serve` with stand-ins behind it, in a process group of its own."""

    def __init__(self, database_url: str, *options: str, port: int = 0, **environment: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="tuppence-gateway-")[1])
        known = {
            "ANTHROPIC_API_KEY": PROVIDER_KEY,
            "OPENAI_API_KEY": PROVIDER_KEY,
            "TUPPENCE_KEY_SECRET": SECRET,
            "REDIS_URL": "",
            **environment,
        }
        serve = ["-m", "tuppence", "serve", "--port", str(port), "--database", database_url]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *serve, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **known},
                start_new_session=True,
            )
        self.base_url = ""

    def wait_until_ready(self) -> str:
        """Return the base URL when the gateway has said it."""
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        assert self.first_line, self.errors
        self.base_url = next(one for one in self.first_line.split() if one.startswith("http"))
        self.base_url = self.base_url.rstrip(";")
        return self.base_url

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.base_url.rpartition(":")[2])

    @property
    def errors(self) -> str:
        """What it has said on standard error."""
        return self._log.read_text()

    @property
    def workers(self) -> list[int]:
        """The ids of the processes that answer, as far as they were started."""
        told = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = [tuple(map(int, line.split())) for line in told.splitlines()]
        return sorted(pid for pid, parent in pairs if parent == self.process.pid)

    def kill_all(self) -> None:
        """Kill the parent and all workers at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def answers(self) -> bool:
        """Tell whether a new connection is answered."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        workers = self.workers
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in workers:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.unlink()
