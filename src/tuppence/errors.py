"""Every error that tuppence raises.

TuppenceError
├── InvalidInput (also a ValueError)      the caller's value cannot be used; CLI exit code 2
│   ├── InvalidMoney                      NaN, infinite, negative or unreadable amount
│   ├── InvalidUsage                      negative, fractional or absurd counts
│   ├── InvalidPeriod                     reversed or unreadable dates, unknown time zone
│   ├── UnknownGrouping                   a group_by that no report has
│   ├── InvalidPrice                      a price that cannot be applied
│   ├── UnknownBudget                     an entity that has no budget
│   ├── InvalidRequest                    a model request that the provider would refuse
│   ├── NoCapableModel                    no model of the router's can take a request
│   ├── InvalidTrace                      recorded traffic that cannot be read
│   └── NoLogsFound                       a path without any session log
├── IdempotencyConflict                   a used key came with another payload; nothing was changed
│   └── HoldKeyUsed                       a hold with this key was made before
├── BudgetExceeded                        a call does not fit the money that is left
│   ├── BudgetPaused                      a budget is paused and lets no call through
│   └── WaitTimedOut                      others held the money until the deadline
├── HoldError                             a hold cannot be ended as asked; nothing was changed
│   ├── UnknownHold
│   ├── HoldAlreadyEnded                  it was settled or released before
│   └── HoldExpired                       its lease ran out; it is unresolved until resolved
├── ProviderError                         a provider did not answer a call as asked
│   ├── ProviderRefusedRequest            400, 404, 413, 422: the request itself is wrong
│   ├── ProviderAuthenticationFailed      401, 403
│   ├── ProviderRateLimited               429
│   ├── ProviderOverloaded                529
│   ├── ProviderFailed                    any other status
│   ├── ProviderUnreachable               no answer: connection or time-out
│   └── StreamBroken                      an answer broke off in the middle
├── MissingPackage                        an optional package is not installed
├── UnknownPrice                          a price was asked for that no book holds
└── LedgerError                           the database cannot be used; CLI exit code 1
    ├── DatabaseUnreachable
    │   └── OutcomeUnknown                the connection broke during a commit
    ├── SchemaMismatch                    the database was written by another version
    └── LedgerInconsistent                roll-ups differ from the raw rows

Each error names the field, the value and the remedy, and carries them as attributes.
"""

from __future__ import annotations

from typing import Any, NamedTuple


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


class InvalidRequest(InvalidInput):
    """A model request is one that its provider would refuse, or that cannot be sent."""


class NoCapableModel(InvalidInput):
    """No model that a router may choose can take a request."""


class InvalidTrace(InvalidInput):
    """A file of recorded traffic cannot be read, or is not in the format that it was said to be."""


class UnknownBudget(InvalidInput):
    """An entity has no budget of this period."""


class IdempotencyConflict(TuppenceError):
    """The idempotency key was used before with another payload. Nothing was changed."""


class HoldKeyUsed(IdempotencyConflict):
    """A hold with this idempotency key was made before. Nothing was changed."""


class Offer(NamedTuple):
    """A call that fits where another does not."""

    model: str
    max_tokens: int


class BudgetExceeded(TuppenceError):
    """A call does not fit the money that is left; nothing is held for it.

    `available_nanos` is the largest bound that would fit now, `resets_at_micros` when the budget
    begins anew (None where it does not). `offers` is what would fit of a call that was asked for by
    model and tokens: less output, cheaper models.
    """

    offers: tuple[Offer, ...] = ()

    def __init__(
        self,
        problem: str,
        *,
        field: str,
        value: object,
        remedy: str,
        requested_nanos: int = 0,
        available_nanos: int = 0,
        resets_at_micros: int | None = None,
    ) -> None:
        super().__init__(problem, field=field, value=value, remedy=remedy)
        self.requested_nanos = requested_nanos
        self.available_nanos = available_nanos
        self.resets_at_micros = resets_at_micros


class BudgetPaused(BudgetExceeded):
    """A budget that covers the call is paused."""


class WaitTimedOut(BudgetExceeded):
    """The call would have fitted if others had settled for less before its deadline."""


class HoldError(TuppenceError):
    """A hold cannot be ended as asked. Nothing was changed."""


class UnknownHold(HoldError):
    """There is no hold of this id."""


class HoldAlreadyEnded(HoldError):
    """The hold was settled or released before."""


class HoldExpired(HoldError):
    """The hold's lease ran out: it counts at its bound until it is resolved."""


class UnknownPrice(TuppenceError):
    """No price is known for this model, time and way of serving."""


class ProviderError(TuppenceError):
    """A provider did not answer a call as asked.

    `provider_message` is what it said, word for word; `status` its HTTP status, None without an
    answer. `metered` is the `MeteredResponse` of what it had billed by then, None for nothing.
    """

    def __init__(  # noqa: PLR0913 - what a provider says about an error
        self,
        problem: str,
        *,
        field: str,
        value: object,
        remedy: str,
        provider_message: str = "",
        status: int | None = None,
        error_type: str = "",
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
        metered: Any = None,
    ) -> None:
        super().__init__(problem, field=field, value=value, remedy=remedy)
        self.provider_message = provider_message
        self.status = status
        self.error_type = error_type
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.metered = metered


class ProviderRefusedRequest(ProviderError):
    """The provider says that the request is wrong: 400, 404, 413, 422."""


class ProviderAuthenticationFailed(ProviderError):
    """There is no key, or the provider does not accept it or does not allow it this: 401, 403."""


class ProviderRateLimited(ProviderError):
    """The provider wants fewer calls: 429; `retry_after_seconds` where it says when."""


class ProviderOverloaded(ProviderError):
    """The provider has no room at the moment: 529."""


class ProviderFailed(ProviderError):
    """The provider answered with another error."""


class ProviderUnreachable(ProviderError):
    """The provider did not answer: no connection, or no answer in time."""


class StreamBroken(ProviderError):
    """An answer broke off in the middle; `text` is what had arrived, `metered` what was counted."""

    text: str = ""


class MissingPackage(TuppenceError):
    """Something was asked for that needs an optional package, which is not installed."""


class LedgerError(TuppenceError):
    """The ledger's database cannot be used."""


class DatabaseUnreachable(LedgerError):
    """The database does not answer or cannot be opened."""


class OutcomeUnknown(DatabaseUnreachable):
    """The connection broke during a commit: nobody can tell yet whether it was carried out."""


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
