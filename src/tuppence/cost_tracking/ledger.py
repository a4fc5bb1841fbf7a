"""The ledger: one database, the price book in force, and what can be done with them.

The facades for users (`service`), the importers and the command line all go through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar

from tuppence.core.money import Money
from tuppence.core.periods import Span, to_micros
from tuppence.core.price_book import PriceBook
from tuppence.cost_tracking import amendments, budgets, counters, verification
from tuppence.cost_tracking.booking import (
    Booked,
    Call,
    book_calls,
    book_each,
    book_one,
    refuse_changed,
)
from tuppence.cost_tracking.charges import Charges
from tuppence.cost_tracking.contracts import add_contract, contract_version, read_contracts
from tuppence.cost_tracking.counters import BudgetStatus, all_statuses
from tuppence.cost_tracking.dictionary import Dictionary, KnownIds
from tuppence.cost_tracking.directory import Directory
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import SummaryQuery, SummaryRow, summarize, total_of
from tuppence.errors import TuppenceError
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import current_user, load_settings
from tuppence.storage.database import Database, Row, Transaction
from tuppence.storage.opening import open_database

P = ParamSpec("P")
T = TypeVar("T")

OnChange = Literal["refuse", "amend"]
"""What to do with a key that comes again with another payload."""


MOST_KNOWN_IDS = 200_000
"""After so many remembered ids they are looked up anew: sessions come without end."""


def utc_now() -> datetime:
    """Return the time of day; tests pass a clock of their own."""
    return datetime.now(UTC)


class Ledger:
    """A ledger on SQLite or PostgreSQL, used from any thread."""

    def __init__(
        self,
        database: Database,
        load_book: Callable[[], PriceBook] = load_price_book,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.database = database
        self.now = now
        self._load_book = load_book
        self._listed: PriceBook | None = None
        self._book: tuple[tuple[int, int], PriceBook] | None = None
        self._known: KnownIds = {}
        self._directory = Directory()

    @classmethod
    def open(cls, database_url: str | None = None, now: Callable[[], datetime] = utc_now) -> Ledger:
        """Open the ledger that a URL or path names, by default the one that the settings name."""
        return cls(open_database(database_url or load_settings().database_url), now=now)

    def book(self, calls: Sequence[Call], *, on_change: OnChange = "refuse") -> Booked:
        """Book calls in one transaction: durable on return, or nothing of them.

        A call whose key is booked already is left alone. With another payload it is refused
        (IdempotencyConflict); "amend" books the difference instead where there is more output.
        """
        on_changed = refuse_changed if on_change == "refuse" else amendments.amend
        return self._write(book_calls, calls, on_changed)

    def book_each(
        self, tx: Transaction, calls: Sequence[Call]
    ) -> tuple[list[Booked | TuppenceError], KnownIds]:
        """Book calls within a transaction; return what was booked for each, or why it cannot be.

        None suffers for another. A call whose key was booked with another payload is amended, as
        by `book`. The ids that were found are for `remember`, once the transaction is durable.
        """
        dictionary = Dictionary(tx, self._known)
        charges = Charges(self._directory, to_micros(self.now()))
        booked = book_each(
            tx, dictionary, self._book_in_force(tx), charges, calls, amendments.amend
        )
        charges.carry_out(tx, dictionary)
        return booked, dictionary.found

    def remember(self, found: KnownIds) -> None:
        """Keep the ids that a transaction has found; it must be durable."""
        if len(self._known) > MOST_KNOWN_IDS:
            self._known.clear()
        self._known.update(found)

    def book_one(self, call: Call) -> tuple[list[Row], bool]:
        """Book one call; return its rows as the ledger has them, and whether it was new."""
        return self._write(book_one, call)

    def summary(self, query: SummaryQuery) -> tuple[list[SummaryRow], Measures]:
        """Return the groups of a query and the sums over all its calls, from one snapshot."""
        return self.database.read(_summary_and_total, query)

    def price_book(self) -> PriceBook:
        """Return the price book in force: public list, corrections and contracts."""
        return self.database.read(self._book_in_force)

    def set_price(
        self,
        model: str,
        prices: Mapping[str, Money],
        *,
        provider: str = "",
        starts_at: datetime | None = None,
    ) -> None:
        """Add contract prices for a model, by price key ("input_mtok"), from a date on."""
        operation = partial(
            add_contract,
            book=self._public_book(),
            model=model,
            provider=provider,
            prices=prices,
            starts_at=starts_at or self.now(),
            created_at=self.now(),
        )
        self.database.run(operation)

    def provider_of(self, model: str) -> str:
        """Return the provider whose model this is by its name, "unknown" where none is known."""
        timeline = self._public_book().timeline(model)
        return timeline.listed.provider if timeline is not None else "unknown"

    def reprice(self, *, span: Span = Span(), unpriced_only: bool = True) -> amendments.Repriced:
        """Book the differences to what the price book says now, as new rows."""
        operation = partial(amendments.reprice, span=span, unpriced_only=unpriced_only)
        return self._write(operation)

    def create_budget(self, budget: budgets.NewBudget, *, by: str = "") -> budgets.Budget:
        """Create a budget, or give the one of this entity and period new values; on record."""
        by = by or current_user()
        return self.database.run(counters.create_budget, budget, at=self.now(), by=by)

    def find_budgets(
        self, entity_type: str, entity_id: str, period: str | None = None
    ) -> tuple[budgets.Budget, ...]:
        """Return the budgets of an entity, of one period or all; raise UnknownBudget for none."""
        return self.database.read(budgets.find_budgets, (entity_type, entity_id), period)

    def budget_changes(
        self, of: Sequence[budgets.Budget] | None = None
    ) -> list[budgets.BudgetChangeRecord]:
        """Return the audit trail of some budgets, or of all, the oldest change first."""
        return self.database.read(budgets.read_changes, of)

    def raise_budget(
        self, budget: budgets.Budget, amount_nanos: int, *, permanent: bool, by: str = ""
    ) -> BudgetStatus:
        """Raise a limit, for good or for the current period only; on record."""
        operation = counters.raise_for_good if permanent else counters.raise_for_now
        by = by or current_user()
        return self.database.run(operation, budget, amount_nanos, at=self.now(), by=by)

    def pause_budget(
        self, budget: budgets.Budget, paused: bool = True, by: str = ""
    ) -> budgets.Budget:
        """Let no call through any more, or let calls through again; on record."""
        operation = partial(budgets.set_paused, paused=paused)
        return self.database.run(operation, budget, at=self.now(), by=by or current_user())

    def budget_statuses(self, at: datetime | None = None) -> list[BudgetStatus]:
        """Return all budgets with what has been spent in the period of a moment (now)."""
        return self.database.read(all_statuses, to_micros(at or self.now()))

    def verify(self) -> verification.Verified:
        """Compare all roll-ups with the rows they sum; raise LedgerInconsistent on a difference."""
        return self.database.read(verification.verify)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(
        self,
        operation: Callable[Concatenate[Transaction, Dictionary, PriceBook, Charges, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation, charge budgets with what it books, remember its ids once durable."""

        def transaction(tx: Transaction) -> tuple[T, KnownIds]:
            dictionary = Dictionary(tx, self._known)
            book = self._book_in_force(tx)
            charges = Charges(self._directory, to_micros(self.now()))
            result = operation(tx, dictionary, book, charges, *args, **kwargs)
            charges.carry_out(tx, dictionary)
            return result, dictionary.found

        result, found = self.database.run(transaction)
        self.remember(found)
        return result

    def _book_in_force(self, tx: Transaction) -> PriceBook:
        """Return the book with the contracts that this transaction sees."""
        version = contract_version(tx)
        if self._book is None or self._book[0] != version:
            public = self._public_book()
            contracts = read_contracts(tx, public) if version[0] else []
            self._book = (version, public.with_contracts(contracts))
        return self._book[1]

    def _public_book(self) -> PriceBook:
        if self._listed is None:
            self._listed = self._load_book()
        return self._listed


def _summary_and_total(tx: Transaction, query: SummaryQuery) -> tuple[list[SummaryRow], Measures]:
    rows = summarize(tx, query)
    return rows, total_of(tx, query, rows)
