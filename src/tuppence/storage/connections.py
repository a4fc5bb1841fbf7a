"""Connections to a PostgreSQL server, kept for the next transaction and dropped when one breaks.

The driver's own pool connects again in the background, with pauses that double: after half a minute
without a server it takes as long until it looks again, and meanwhile callers wait for their timeout
instead of hearing that the server refuses. Here who needs a connection makes it, so that a refusal
is told at once and the first call after an outage finds the server.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from tuppence.storage.database import Row
from tuppence.storage.forks import forks

Connection = psycopg.Connection[Row]

MAX_CONNECTIONS = 8
CONNECT_TIMEOUT_SECONDS = 2
"""How long a server may take to answer; a call that waits for a decision cannot wait longer."""
UNANSWERED_MILLISECONDS = 5_000
"""After so long without a sign that what was sent has arrived, the server's machine is gone."""
WAIT_SECONDS = 10.0
"""How long a caller waits while all connections are in use."""


class AllInUse(psycopg.OperationalError):
    """All connections have been in use for as long as a caller waits."""


class Connections:
    """Up to MAX_CONNECTIONS connections of one process."""

    def __init__(self, conninfo: str) -> None:
        self._parameters: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "tcp_user_timeout": UNANSWERED_MILLISECONDS,
            **conninfo_to_dict(conninfo),
        }
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []
        self._begin_anew()

    @contextmanager
    def one(self) -> Iterator[Connection]:
        """Lend a connection, made where none is idle. Raises psycopg.OperationalError."""
        if self._generation != forks():  # a connection must not be used on both sides of a fork
            self._begin_anew()
        free = self._free
        if not free.acquire(timeout=WAIT_SECONDS):
            raise AllInUse(f"all {MAX_CONNECTIONS} connections are in use")
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            free.release()

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._inherited += self._idle  # kept: to close them would end the parent's
        self._idle = []
        self._generation = forks()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            connection.close()
        # Transactions are begun where they are meant.
        return psycopg.connect(**self._parameters, autocommit=True)

    def _give_back(self, connection: Connection) -> None:
        if connection.closed:
            self.close()  # what broke this one has most likely broken the idle ones too
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)


def is_lost(connection: Connection, error: BaseException) -> bool:
    """Tell whether an error means that the server has gone away, or this connection's process."""
    return connection.closed or isinstance(error, errors.AdminShutdown | errors.CrashShutdown)


def _has_news(connection: Connection) -> bool:
    """Tell whether a server has sent something to an idle connection: as a rule, its farewell."""
    news = select.poll()
    news.register(connection.fileno(), select.POLLIN)
    return bool(news.poll(0))
