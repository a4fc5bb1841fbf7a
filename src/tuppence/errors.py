"""Every error that tuppence raises.

TuppenceError
├── InvalidInput (also a ValueError)      the caller's value cannot be used; CLI exit code 2
│   ├── InvalidMoney                      NaN, infinite, negative or unreadable amount
│   ├── InvalidUsage                      negative, fractional or absurd counts
│   ├── InvalidPeriod                     reversed or unreadable dates, unknown time zone
│   ├── UnknownGrouping                   a group_by that no report has
│   ├── InvalidPrice                      a price that cannot be applied
│   └── NoLogsFound                       a path without any session log
├── IdempotencyConflict                   a used key came with another payload; nothing was changed
├── UnknownPrice                          a price was asked for that no book holds
└── LedgerError                           the database cannot be used; CLI exit code 1
    ├── DatabaseUnreachable
    ├── SchemaMismatch                    the database was written by another version
    └── LedgerInconsistent                roll-ups differ from the raw rows

Each error names the field, the value and the remedy, and carries them as attributes.
"""

from __future__ import annotations


class TuppenceError(Exception):
    """Base of all errors; `str()` is one line with the field, the value and what to do."""

    def __init__(self, problem: str, *, field: str, value: object, remedy: str) -> None:
        self.problem = problem
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(f"{field}={_shortened(value)}: {problem}; {remedy}")


class InvalidInput(TuppenceError, ValueError):
    """A value given by the caller cannot be used. Nothing was written."""


class InvalidMoney(InvalidInput):
    """An amount of money is NaN, infinite, negative or unreadable."""


class InvalidUsage(InvalidInput):
    """A count is negative, fractional, or larger than any real call."""


class InvalidPeriod(InvalidInput):
    """A period is reversed or unreadable, or its time zone is unknown."""


class UnknownGrouping(InvalidInput):
    """A report was asked to group by something that it does not know."""


class InvalidPrice(InvalidInput):
    """A price cannot be applied: unknown unit, negative rate, unreadable date."""


class NoLogsFound(InvalidInput):
    """A path given to an import holds no session log."""


class IdempotencyConflict(TuppenceError):
    """The idempotency key was used before with another payload. Nothing was changed."""


class UnknownPrice(TuppenceError):
    """No price is known for this model, time and way of serving."""


class LedgerError(TuppenceError):
    """The ledger's database cannot be used."""


class DatabaseUnreachable(LedgerError):
    """The database does not answer or cannot be opened."""


class SchemaMismatch(LedgerError):
    """The database was written by another version of tuppence."""


class LedgerInconsistent(LedgerError):
    """The roll-ups do not add up to the raw rows."""


def _shortened(value: object, limit: int = 120) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        text = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else "…"
    return text if len(text) <= limit else f"{text[:limit]}…"
