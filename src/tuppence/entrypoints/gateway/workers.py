"""Several processes that serve one port: started, watched, started again, and ended together.

A worker is a fork, made before anything is opened: it has all code loaded, so it answers a fraction
of a second after another one was killed, and shares no connection with anybody.

Each has a listening socket of its own on the same port, and the system shares connections out among
them. Of one socket for all, whoever wakes first takes what waits: of 64 connections one of four
workers got 51 and another one 1, with a socket each they got 13 to 21. The parent keeps the sockets
open too, so whoever was given to a worker that died waits there for the next one; only where that
cannot start its socket is closed until it can.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from tuppence.entrypoints.gateway.server import GRACE_SECONDS, Lifeline, join, listen
from tuppence.errors import InvalidInput

Work = Callable[[socket.socket, Lifeline], None]
"""Serves on a socket until a signal comes or the parent has gone; ends as a process does."""

LASTS_SECONDS = 2.0
"""A worker that served for so long is replaced at once when it dies."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
MOST_FAILED_STARTS = 8
"""After so many for each worker, while nobody serves, it is given up."""
_STOP = (signal.SIGINT, signal.SIGTERM)
_CUT_OFF_SECONDS = GRACE_SECONDS + 5
"""A worker that has not ended so long after it was told to is killed."""

_logger = logging.getLogger(__name__)


def sockets_for(count: int, host: str, port: int) -> list[socket.socket]:
    """Return sockets on one port, of which each listens when its worker can answer.

    Port 0 takes a free one. Raises InvalidInput.
    """
    if not hasattr(os, "fork") or not hasattr(socket, "SO_REUSEPORT"):
        raise InvalidInput(
            "cannot be more than 1 on this system",
            field="workers",
            value=count,
            remedy="leave --workers out",
        )
    with listen(host, port):
        pass  # one that shares its port would also go beside another gateway of ours
    first = join(host, port)
    port = first.getsockname()[1]
    return [first, *(join(host, port) for _ in range(count - 1))]


@dataclass(slots=True, eq=False)
class _Worker:
    """A place for a process, and the process that has it now."""

    listener: socket.socket
    pid: int = 0
    """0: nobody has it."""
    news: int = -1
    """A pipe: a byte comes when it can answer, the end when it has died."""
    is_ready: bool = False
    ready_at_seconds: float = 0.0
    pause_seconds: float = 0.0
    start_at_seconds: float = 0.0


class Workers:
    """The parent of the processes that serve, one for each socket.

    `work` is run in each of them. `tell` is called once, when all of them can answer for the first
    time.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], work: Work, tell: Callable[[], None]
    ) -> None:
        self._workers = [_Worker(listener) for listener in listeners]
        self._address = listeners[0].getsockname()[:2]
        self._work = work
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        self._lifeline, self._alive = os.pipe()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        self._has_served = self._has_told = False
        self._failed_starts = 0
        self._status: int | None = None
        """What to end with; None while it goes on."""
        self._killed_at_seconds = float("inf")

    def run(self) -> int:
        """Serve until a signal comes, or no worker can start; return the exit code.

        A worker that cannot start has said why itself; its code is the one that is returned.
        """
        gc.collect()
        gc.freeze()  # what is loaded by now stays shared among all
        before = [signal.signal(number, _do_nothing) for number in _STOP]
        woken_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            while self._status is None or self._alive_ones():
                self._step()
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in zip(_STOP, before, strict=True):
                signal.signal(number, handler)
        return self._status

    def _step(self) -> None:
        """Start who is due, then wait for the next thing to happen, and answer it."""
        if self._status is None:
            self._start_due()
        for key, _ in self._selector.select(self._wait_seconds()):
            if key.data is None:
                os.read(self._woken, 1_024)
                self._stop(0)
            else:
                self._hear(key.data)
        if time.monotonic() >= self._killed_at_seconds:
            self._signal(signal.SIGKILL)

    def _wait_seconds(self) -> float | None:
        moments = [self._killed_at_seconds]
        if self._status is None and self._has_served:
            moments += [one.start_at_seconds for one in self._workers if not one.pid]
        moment = min(moments)
        return None if moment == float("inf") else max(moment - time.monotonic(), 0.0)

    def _start_due(self) -> None:
        """Start the first one alone: what keeps it from serving is then told once."""
        now = time.monotonic()
        for worker in self._workers if self._has_served else self._workers[:1]:
            if not worker.pid and worker.start_at_seconds <= now:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        if worker.listener.fileno() < 0:
            worker.listener = join(*self._address)
        news, tells = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(worker, Lifeline(self._lifeline, tells), news)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(tells)
        worker.pid, worker.news, worker.is_ready = pid, news, False
        self._selector.register(news, selectors.EVENT_READ, worker)

    def _be_worker(self, worker: _Worker, lifeline: Lifeline, news: int) -> NoReturn:
        """Be the child: let go of what is the parent's, then work."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _STOP:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
            self._selector.close()
            others = [one for one in self._workers if one is not worker]
            for one in others:
                one.listener.close()
            kept = [one.news for one in others if one.pid]
            for descriptor in (self._alive, self._woken, self._wake, news, *kept):
                os.close(descriptor)
            self._work(worker.listener, lifeline)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:  # never up into the parent's code
            if status == 1 and sys.exc_info()[1] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(status)

    def _hear(self, worker: _Worker) -> None:
        """Take in that a worker is ready, or that it has died."""
        if os.read(worker.news, 1):
            worker.is_ready, worker.ready_at_seconds = True, time.monotonic()
            self._has_served, self._failed_starts = True, 0
            if not self._has_told and all(one.is_ready for one in self._workers):
                self._has_told = True
                self._tell()
            return
        self._selector.unregister(worker.news)
        os.close(worker.news)
        _, waited = os.waitpid(worker.pid, 0)
        self._ended(worker, os.waitstatus_to_exitcode(waited))

    def _ended(self, worker: _Worker, status: int) -> None:
        number, worker.pid = worker.pid, 0
        if self._status is not None:
            was_told = status == 0 or (not worker.is_ready and -status in _STOP)
            self._status = self._status if was_told else (self._status or 1)
            return
        serving = any(one.is_ready for one in self._alive_ones())
        self._failed_starts = 0 if serving else self._failed_starts + (not worker.is_ready)
        if not self._has_served or self._failed_starts >= MOST_FAILED_STARTS * len(self._workers):
            self._stop(status if status > 0 else 1)
            return
        lasted = worker.is_ready and time.monotonic() - worker.ready_at_seconds >= LASTS_SECONDS
        if not worker.is_ready:
            worker.listener.close()  # what comes goes to the others meanwhile
        longer = max(2 * worker.pause_seconds, FIRST_PAUSE_SECONDS)
        worker.pause_seconds = 0.0 if lasted else min(longer, LONGEST_PAUSE_SECONDS)
        worker.start_at_seconds = time.monotonic() + worker.pause_seconds
        _logger.warning(_DIED, number, status, worker.pause_seconds)

    def _stop(self, status: int) -> None:
        """Listen no more, and tell all workers to end."""
        if self._status is None:
            self._status = status
            self._killed_at_seconds = time.monotonic() + _CUT_OFF_SECONDS
            for worker in self._workers:
                worker.listener.close()
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._alive_ones():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def _alive_ones(self) -> list[_Worker]:
        return [one for one in self._workers if one.pid]


def _do_nothing(number: int, frame: object) -> None:
    """Let a signal only wake the parent."""
    del number, frame


_DIED = "worker %d ended with code %d; another one is started in %.1f s"
