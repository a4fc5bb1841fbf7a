"""Finds log files and reads their lines, compressed or not."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from tuppence.errors import NoLogsFound

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
CHUNK_BYTES = 1 << 18
GZIP_WINDOW = 31
"""zlib's number for "the largest window, with gzip's header"."""


class Decompressor(Protocol):
    """What zlib and lzma have in common."""

    @property
    def eof(self) -> bool:
        """Whether the archive has been read to its end."""

    @property
    def unused_data(self) -> bytes:
        """What stood behind the end."""

    def decompress(self, data: bytes, /) -> bytes:
        """Return as much content as this data gives."""


DECOMPRESSORS: Mapping[str, Callable[[], Decompressor]] = {
    ".gz": partial(zlib.decompressobj, GZIP_WINDOW),
    ".xz": lzma.LZMADecompressor,
}


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
            folder = folder.encode(errors="replace").decode()  # a name may be no UTF-8
            found.setdefault(file.resolve(), LogFile(file, folder, file.stat().st_size))
    return list(found.values())


def read_lines(log: LogFile, on_bytes: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines of a log; report how many bytes of the file have been read."""
    number = 0
    rest = b""
    try:
        for chunk in _chunks(log.path, on_bytes):
            *lines, rest = (rest + chunk).split(b"\n")
            for text in lines:
                number += 1
                yield Line(number, text)
    except (EOFError, OSError, zlib.error, lzma.LZMAError):
        yield Line(number + 1, None)
        return
    if rest:
        yield Line(number + 1, rest)


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name.endswith(ENDINGS) else []
    files = (file for file in path.rglob("*.jsonl*") if file.name.endswith(ENDINGS))
    return sorted(file for file in files if file.is_file())


def _chunks(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a file's content in pieces; what stands before a break is given out before it."""
    raw = _raw_chunks(path, on_bytes)
    new_decompressor = DECOMPRESSORS.get(path.suffix)
    return raw if new_decompressor is None else _decompressed(raw, new_decompressor)


def _raw_chunks(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while raw := file.read(CHUNK_BYTES):
            on_bytes(len(raw))
            yield raw


def _decompressed(
    chunks: Iterable[bytes], new_decompressor: Callable[[], Decompressor]
) -> Iterator[bytes]:
    """Yield the content of one archive, or of several joined to one file.

    Raises EOFError where the last one is not whole.
    """
    decompressor = new_decompressor()
    whole = True
    for chunk in chunks:
        rest = chunk
        while rest:
            yield decompressor.decompress(rest)
            whole = decompressor.eof
            rest = decompressor.unused_data
            if whole:
                decompressor = new_decompressor()
    if not whole:
        raise EOFError
