"""Finds log files and reads their lines, compressed or not."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tuppence.errors import NoLogsFound

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
LINES_PER_REPORT = 2_000


class LogFile(NamedTuple):
    """A log file, with the folder it lay in below the directory that was searched."""

    path: Path
    folder: str
    size_bytes: int


class Line(NamedTuple):
    """One line of a log; `text` is None where the file broke off."""

    number: int
    text: bytes | None


def find_logs(paths: Sequence[str | Path]) -> list[LogFile]:
    """Return all log files at or below the paths, in a fixed order, each once.

    Raises NoLogsFound for a path that does not exist or holds no log.
    """
    found: dict[Path, LogFile] = {}
    for path in map(Path, paths):
        files = _files_at(path)
        if not files:
            raise NoLogsFound(
                "holds no session log" if path.exists() else "does not exist",
                field="path",
                value=str(path),
                remedy=f"give a file or directory with {', '.join(ENDINGS)} files, "
                "as ~/.claude/projects",
            )
        for file in files:
            relative = file.relative_to(path) if path.is_dir() else Path(file.name)
            folder = relative.parts[0] if len(relative.parts) > 1 else ""
            found.setdefault(file.resolve(), LogFile(file, folder, file.stat().st_size))
    return list(found.values())


def read_lines(log: LogFile, on_bytes: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines of a log; report the bytes of the file read since the last report."""
    with log.path.open("rb") as file:
        reported = 0
        number = 0
        try:
            for number, text in enumerate(_decompressed(file, log.path.name), 1):
                yield Line(number, text)
                if number % LINES_PER_REPORT == 0:
                    position = file.tell()
                    on_bytes(position - reported)
                    reported = position
        except (EOFError, OSError, lzma.LZMAError, gzip.BadGzipFile):
            yield Line(number + 1, None)
        on_bytes(log.size_bytes - reported)


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name.endswith(ENDINGS) else []
    return sorted(file for file in path.rglob("*.jsonl*") if file.name.endswith(ENDINGS))


def _decompressed(file: io.BufferedReader, name: str) -> io.BufferedReader:
    if name.endswith(".xz"):
        return io.BufferedReader(lzma.LZMAFile(file), 1 << 20)
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)
    return file
