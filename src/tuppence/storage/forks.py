"""Which process this is, told without asking the system at every step.

A fork has its parent's objects, but must not use its connections and numbers.
"""

from __future__ import annotations

import os


class _Generation:
    """How many forks lie between the first process and this one."""

    count = 0

    @classmethod
    def next(cls) -> None:
        """Count one more, in the child."""
        cls.count += 1


os.register_at_fork(after_in_child=_Generation.next)


def forks() -> int:
    """Return a number that changes in a process that was forked."""
    return _Generation.count
