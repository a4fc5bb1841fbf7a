"""Calls by model and tokens instead of money: what they can cost, and what fits instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

from tuppence.budget.bounds import CallPrice, call_price
from tuppence.budget.scopes import Payer
from tuppence.core.money import Money, to_nanos
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import STANDARD_TERMS, Terms, check_count
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import InvalidInput, Offer
from tuppence.prices.model_facts import family_of, load_tiers


class HoldOptions(TypedDict, total=False):
    """How money is held."""

    priority: str
    wait_seconds: float
    lease_seconds: float | None
    idempotency_key: str | None


class CallOptions(HoldOptions, Payer, total=False):
    """What a hold for a call can be told beside its model and tokens; all of it by keyword."""


class Amounts(NamedTuple):
    """What is to be held for a call."""

    bound_nanos: int
    """What it can cost at most."""
    certain_nanos: int
    """What it costs at least."""
    minimum_nanos: int
    """The smallest bound that is taken instead; the bound itself where no less is."""
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
    def amounts(self) -> Amounts:
        """What is to be held for it."""
        price, least = self.price, self.minimum_max_tokens
        bound = price.upper_bound(self.max_tokens)
        minimum = bound if least is None else price.upper_bound(least)
        return Amounts(bound, price.certain(), minimum, self.model)

    def max_tokens_for(self, bound_nanos: int) -> int:
        """Return the `max_tokens` that may be sent where so much is held as the bound."""
        return min(self.price.max_tokens(bound_nanos) or 0, self.max_tokens)


def amounts_of(upper_bound: Money, certain: Money, minimum: Money | None, model: str) -> Amounts:
    """Return amounts of money in nano-dollars; raise InvalidMoney, InvalidInput."""
    bound = to_nanos(upper_bound, field="upper_bound")
    floor = to_nanos(certain, field="certain")
    if floor > bound:
        raise InvalidInput(
            "is more than the upper bound",
            field="certain",
            value=certain,
            remedy="give what the call costs at least",
        )
    least = bound if minimum is None else to_nanos(minimum, field="minimum")
    return Amounts(bound, floor, least, model)


def apart(options: CallOptions) -> tuple[HoldOptions, Payer]:
    """Return how money is to be held, and who pays."""
    held = {name: one for name, one in options.items() if name in HoldOptions.__annotations__}
    payer = {name: one for name, one in options.items() if name not in held}
    return cast("HoldOptions", held), cast("Payer", payer)


class CallPrices:
    """What calls cost by the price book in force."""

    def __init__(self, ledger: Ledger, tiers: str) -> None:
        self.ledger = ledger
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
