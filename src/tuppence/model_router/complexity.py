"""How hard a task is."""

from __future__ import annotations

from enum import StrEnum

from tuppence.errors import InvalidInput


class TaskComplexity(StrEnum):
    """The first tier of models that is able to do a task."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"

    @property
    def tier(self) -> int:
        """0 for the weak tier, 1 for the middle, 2 for the strong."""
        return _ORDER.index(self)

    @classmethod
    def _missing_(cls, value: object) -> TaskComplexity:
        raise InvalidInput(
            "is no complexity",
            field="complexity",
            value=value,
            remedy=f"choose one of {', '.join(cls)}",
        )


_ORDER = tuple(TaskComplexity)
