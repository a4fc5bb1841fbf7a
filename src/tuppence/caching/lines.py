"""Reads the lines of files that may be compressed."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tuppence.errors import InvalidTrace


def lines_of(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the lines of a plain, .gz or .xz file; tell how many more bytes of it were read.

    Raises InvalidTrace for a file that cannot be read or is cut short.
    """
    number = read_bytes = 0
    try:
        with path.open("rb") as file, _decompressed(file, path) as lines:
            for line in lines:
                number += 1
                yield line
                on_bytes(file.tell() - read_bytes)
                read_bytes = file.tell()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InvalidTrace(
            f"cannot be read after line {number}: {error}",
            field="trace",
            value=str(path),
            remedy="give a file that can be read: plain, .gz or .xz",
        ) from error


def _decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    if path.suffix == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(file))
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
