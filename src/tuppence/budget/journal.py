"""The journal: what was let through and spent while the database could not be reached.

Off by default. Each process has a file of its own, with one line per entry that is on the disk
before the caller goes on. When the database is back the entries are booked, each once however often
that is begun: by the process itself, or, where it has died, by whoever looks next. A lock on the
file tells whether its process lives. A call of a dead process that was let through and not settled
counts at its bound until its cost is known, as after any crash.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from tuppence.budget.refusals import key_used
from tuppence.budget.requests import (
    Answer,
    End,
    Ended,
    Ending,
    Extend,
    Granted,
    Request,
    Reserve,
    Spend,
)
from tuppence.budget.scopes import decode_scopes
from tuppence.errors import DatabaseUnreachable, LedgerError
from tuppence.storage.database import without_password
from tuppence.storage.forks import forks

LOOK_AGAIN_SECONDS = 0.5
"""How long after a failure the database is not asked again."""
AT_ONCE = 16
"""How many entries are booked side by side; they share commits."""
IDS_FROM = 1 << 59
"""Holds of journals have random ids above all that processes are given."""
REJECTED = "rejected"

Send = Callable[[Request], Answer]
Booking = tuple[Request, bool]
"""What books an entry, and whether it counts even where its idempotency key is used."""


class Entry(NamedTuple):
    """A line of a journal."""

    kind: Literal["hold", "ended", "spend", "end"]
    """A call that is let through; its end; spending; the end of a hold of the database."""
    id: int
    nanos: int
    priority: int = 0
    scope: str = ""
    key: str | None = None
    ending: Ending = "settled"

    @property
    def line(self) -> bytes:
        """The entry as it is written."""
        return json.dumps(self, ensure_ascii=False).encode() + b"\n"

    def as_spend(self, *, unresolved: bool = False) -> Spend:
        """Return the request that counts the entry."""
        return Spend(
            self.id,
            decode_scopes(self.scope),
            self.scope,
            self.nanos,
            self.priority,
            None if self.key is None else bytes.fromhex(self.key),
            again=True,
            unresolved=unresolved,
        )


class Journal:
    """The journal of one process for one ledger."""

    def __init__(self, directory: Path, send: Send, prepare: Callable[[], None]) -> None:
        self._directory = directory
        self._send = send
        self._prepare = prepare
        self._prepared = False
        self._lock = threading.RLock()
        self._file: _File | None = None
        self._pending: list[Entry] = []
        self._open: dict[int, Entry] = {}
        self._look_again_at = 0.0
        self._generation = forks()

    def has(self, hold_id: int) -> bool:
        """Tell whether a call was let through by the journal, and has not ended."""
        return hold_id in self._open

    def instead(self, request: Request) -> Answer | None:
        """Return the answer of the journal; None where the database is to be asked."""
        if self._prepared and not self._pending and not self._open and not self._is_away():
            return None
        self._notice_fork()
        with self._lock:
            if isinstance(request, End | Extend) and request.hold_id in self._open:
                answer = self._own(request)
                self.book()
                return answer
            if self._is_away():
                return self._written(request)
            try:
                self.replay()
            except DatabaseUnreachable as error:
                return self.take(request, error)
        return None

    def take(self, request: Request, error: DatabaseUnreachable) -> Answer:
        """Answer a request that the database did not; raise the error where that is impossible."""
        self._notice_fork()
        with self._lock:
            self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS
            answer = self._written(request)
        if answer is None:
            raise error
        return answer

    def replay(self) -> None:
        """Book everything that is not booked yet, of this process and of those that have died.

        Raises DatabaseUnreachable; then nothing is lost, and what was booked is not booked again.
        """
        with self._lock:
            if not self._prepared:
                self._prepare()
                recover(self._directory, self._send)
                self._prepared = True
            if self._pending:
                recover(self._directory, self._send)
                open_holds = dict(self._open)
                _book(self._directory, self._send, _bookings(self._pending, open_holds))
                self._pending = []
            if self._file is not None and not self._open:
                self._file.remove()
                self._file = None

    def book(self) -> None:
        """Book what can be booked now; the rest is booked when the database is back."""
        if self._is_away():
            return
        try:
            self.replay()
        except DatabaseUnreachable:
            self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS

    def close(self) -> None:
        """Book what can be booked; what cannot stays for the next process."""
        with self._lock:
            if self._pending:
                self._look_again_at = 0.0
                self.book()
            if self._file is not None:
                self._file.close()
                self._file = None

    def _notice_fork(self) -> None:
        """Leave to the parent process what is the parent's."""
        if self._generation != forks():
            self._lock = threading.RLock()
            if self._file is not None:
                self._file.close()  # the parent's lock stays
            self._file, self._pending, self._open = None, [], {}
            self._generation = forks()

    def _is_away(self) -> bool:
        return time.monotonic() < self._look_again_at

    def _own(self, request: End | Extend) -> Answer:
        """Answer what is asked about a call that the journal has let through."""
        entry = self._open[request.hold_id]
        if isinstance(request, Extend):
            return _granted(entry, request.lease_micros)
        ended = entry._replace(kind="ended", nanos=request.amount_nanos, ending=request.ending)
        if request.ending == "unresolved":
            ended = ended._replace(nanos=entry.nanos)
        self._write(ended)
        del self._open[request.hold_id]
        return Ended(entry.id, request.amount_nanos)

    def _written(self, request: Request) -> Answer | None:
        """Write a request down and answer it; None for one that only the database can answer."""
        if isinstance(request, Reserve):
            key = None if request.key is None else request.key.hex()
            used = next((one for one in self._open.values() if key and one.key == key), None)
            if used is not None:
                return key_used(request.key_text, used.id)
            number, bound = new_id(), request.bound_nanos
            entry = Entry("hold", number, bound, request.priority, request.scope_text, key)
            self._write(entry)
            self._open[number] = entry
            return _granted(entry, request.lease_micros)
        if isinstance(request, Spend):
            key = None if request.key is None else request.key.hex()
            nanos, scope = request.amount_nanos, request.scope_text
            self._write(Entry("spend", request.hold_id, nanos, request.priority, scope, key))
            return Ended(request.hold_id, nanos)
        if type(request) is not End or request.bill is not None:  # the ledger has no journal
            return None
        if request.ending in ("settled", "released", "unresolved"):
            nanos = request.amount_nanos
            self._write(Entry("end", request.hold_id, nanos, ending=request.ending))
            return Ended(request.hold_id, nanos)
        return None

    def _write(self, entry: Entry) -> None:
        if self._file is None:
            self._file = _File(self._directory)
        self._file.write(entry.line)
        self._pending.append(entry)


class _File:
    """A file that one process appends to, locked as long as the process lives."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = secrets.token_hex(8)
        unlocked = directory / f"{name}.new"
        self._path = directory / f"{name}.jsonl"
        self._number = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._number, fcntl.LOCK_EX)
        unlocked.rename(self._path)  # from here on others see it, and that its process lives
        self._size = 0
        _sync_directory(directory)

    def write(self, line: bytes) -> None:
        """Append a line; it is on the disk when this returns, or else not in the file."""
        try:
            if os.pwrite(self._number, line, self._size) != len(line):
                raise OSError(f"{self._path} has no room")  # noqa: TRY301
            os.fsync(self._number)
        except OSError as error:
            os.ftruncate(self._number, self._size)
            raise DatabaseUnreachable(
                f"cannot be reached, and its journal cannot be written ({error})",
                field="database",
                value=str(self._path),
                remedy="make room for the journal, or name another directory: TUPPENCE_JOURNAL",
            ) from error
        self._size += len(line)

    def remove(self) -> None:
        """Delete the file: everything in it is booked."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file; the lock goes with it."""
        os.close(self._number)


def new_id() -> int:
    """Return an id for a hold that needs no database to be unique."""
    return IDS_FROM | secrets.randbits(59)


def directory_of(directory: Path, url: str) -> Path:
    """Return where the journals of a ledger are."""
    name = hashlib.blake2b(without_password(url).encode(), digest_size=8).hexdigest()
    return directory / name


def recover(directory: Path, send: Send) -> None:
    """Book the journals of processes that have died, and delete them."""
    for path in sorted(directory.glob("*.jsonl")):
        with _abandoned(path) as content:
            if content is not None:
                entries = list(_entries(path, content))
                open_holds: dict[int, Entry] = {}
                bookings = _bookings(entries, open_holds)
                left = [(one.as_spend(unresolved=True), True) for one in open_holds.values()]
                _book(directory, send, [*bookings, *left])
                path.unlink(missing_ok=True)


@contextmanager
def _abandoned(path: Path) -> Iterator[bytes | None]:
    """Lend the content of a journal whose process has died; None of others."""
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # another process has just booked it
        yield None
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = not os.fstat(number).st_nlink
        yield None if gone else path.read_bytes()
    except BlockingIOError:
        yield None
    finally:
        os.close(number)


def _entries(path: Path, content: bytes) -> Iterator[Entry]:
    """Return the entries of a journal; a last line that was not finished was never answered."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            yield Entry(*json.loads(line))
        except (ValueError, TypeError) as error:
            raise LedgerError(
                f"has a line {number} that cannot be read ({error})",
                field="journal",
                value=str(path),
                remedy="mend the line, or move the file away and book what it says yourself",
            ) from error


def _bookings(entries: Iterable[Entry], open_holds: dict[int, Entry]) -> list[Booking]:
    """Return what books entries; `open_holds` gets the calls that are let through and not ended."""
    found: list[Booking] = []
    for entry in entries:
        if entry.kind == "hold":
            open_holds[entry.id] = entry
        elif entry.kind == "spend":
            found.append((entry.as_spend(), False))
        elif entry.kind == "end":
            end = End(entry.id, entry.ending, entry.nanos, again=True, within_lease=True)
            found.append((end, False))
        else:
            open_holds.pop(entry.id, None)
            if entry.ending != "released":
                found.append((entry.as_spend(unresolved=entry.ending == "unresolved"), True))
    return found


def _book(directory: Path, send: Send, bookings: Sequence[Booking]) -> None:
    """Carry out bookings; keep those that the ledger turns down for people to look at."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tuppence-journal") as threads:
        answers = list(threads.map(lambda one: _booked(send, *one), bookings))
    rejected = [
        f"{answer} {request!r}\n"
        for (request, _), answer in zip(bookings, answers, strict=True)
        if isinstance(answer, Exception)
    ]
    if rejected:
        with (directory / REJECTED).open("a", encoding="utf-8") as file:
            file.writelines(rejected)


def _booked(send: Send, request: Request, counts_anyway: bool) -> Answer:
    answer = send(request)
    other = isinstance(answer, Ended) and answer.hold_id != request.hold_id
    if counts_anyway and other and isinstance(request, Spend):
        return send(replace(request, key=None))  # the key is used; the call has cost its money
    return answer


def _granted(entry: Entry, lease_micros: int) -> Granted:
    expires_at = time.time_ns() // 1000 + lease_micros
    return Granted(entry.id, entry.nanos, (), expires_at)


def _sync_directory(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
