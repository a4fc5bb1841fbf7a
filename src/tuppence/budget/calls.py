"""Calls by model and tokens instead of money: what they can cost, and what fits instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypedDict

from tuppence.budget.bounds import CallPrice, call_price
from tuppence.budget.scopes import Payer
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import STANDARD_TERMS, Terms, check_count
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import InvalidInput, Offer
from tuppence.prices.model_facts import family_of, load_tiers
from tuppence.storage.database import Database


class CallOptions(Payer, total=False):
    """What a hold for a call can be told beside its model and tokens; all of it by keyword."""

    priority: str
    wait_seconds: float
    lease_seconds: float | None
    idempotency_key: str | None


class Amounts(TypedDict):
    """What is asked of `hold` for a call."""

    certain: Decimal
    minimum: Decimal | None
    model: str


@dataclass(frozen=True, slots=True)
class CallWish:
    """A call that a caller wants to make."""

    model: str
    input_tokens: int
    max_tokens: int
    minimum_max_tokens: int | None
    price: CallPrice

    @property
    def upper_bound(self) -> Decimal:
        """What the call costs at most, in dollars."""
        return _dollars(self.price.upper_bound(self.max_tokens))

    @property
    def amounts(self) -> Amounts:
        """What else `hold` is to know."""
        least = self.minimum_max_tokens
        minimum = None if least is None else _dollars(self.price.upper_bound(least))
        return Amounts(certain=_dollars(self.price.certain()), minimum=minimum, model=self.model)

    def max_tokens_for(self, bound_nanos: int) -> int:
        """Return the `max_tokens` that may be sent where so much is held as the bound."""
        return min(self.price.max_tokens(bound_nanos) or 0, self.max_tokens)


class CallPrices:
    """What calls cost by the price book in force."""

    def __init__(self, database: Database, now: Callable[[], datetime], tiers: str) -> None:
        self.ledger = Ledger(database, now=now)
        self._tiers = tiers

    def wish(
        self,
        model: str,
        input_tokens: int,
        max_tokens: int,
        minimum_max_tokens: int | None,
        *,
        provider: str | None = None,
        terms: Terms = STANDARD_TERMS,
        book: PriceBook | None = None,
    ) -> CallWish:
        """Return a call with its price, by the book in force where none is given.

        Raises UnknownPrice, InvalidUsage, InvalidInput.
        """
        check_count("max_tokens", max_tokens)
        if minimum_max_tokens is not None:
            check_count("minimum_max_tokens", minimum_max_tokens)
            if minimum_max_tokens > max_tokens:
                raise InvalidInput(
                    f"is more than max_tokens={max_tokens}",
                    field="minimum_max_tokens",
                    value=minimum_max_tokens,
                    remedy="give the fewest tokens that the answer is of use with",
                )
        at_seconds = int(self.ledger.now().timestamp())
        price = call_price(
            book or self.ledger.price_book(),
            model,
            input_tokens,
            at_seconds,
            provider=provider,
            terms=terms,
            has_output=max_tokens > 0,
        )
        return CallWish(model, input_tokens, max_tokens, minimum_max_tokens, price)

    def offers(self, wish: CallWish, available_nanos: int) -> tuple[Offer, ...]:
        """Return what fits instead: the same model with less output, then cheaper models."""
        book = self.ledger.price_book()
        prices = {wish.model: wish.price}
        family = family_of(wish.model)
        for tier in reversed(load_tiers(self._tiers)):
            if family is not None and tier.family.rank < family.rank:
                prices[tier.model] = self._price(book, tier.model, wish.input_tokens)
        offers = []
        for model, price in prices.items():
            tokens = min(price.max_tokens(available_nanos) or 0, wish.max_tokens)
            if tokens >= max(wish.minimum_max_tokens or 1, 1):
                offers.append(Offer(model, tokens))
        return tuple(offers)

    def _price(self, book: PriceBook, model: str, input_tokens: int) -> CallPrice:
        return call_price(book, model, input_tokens, int(self.ledger.now().timestamp()))


def _dollars(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)
