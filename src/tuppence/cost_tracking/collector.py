"""Python's collector of cycles, paused while a batch is built."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Keep Python from searching for cycles among many rows that are all in use.

    A batch of ten thousand calls is hundreds of thousands of objects without a cycle; looking
    through them again and again costs a quarter of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
