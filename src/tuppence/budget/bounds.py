"""What a call can cost at most, and the largest `max_tokens` that an amount of money pays for.

Nobody knows before a call how much of its input the provider will take from its cache, or write to
it. The bound takes all input at the dearest class that it can be billed at (a write to the 1-hour
cache, where the provider sells one), and all output that is allowed; so no answer costs more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tuppence.core.price_book import PriceBook
from tuppence.core.prices import RateCard
from tuppence.core.usage import MAX_COUNT, STANDARD_TERMS, Terms, Usage, check_count
from tuppence.errors import UnknownPrice

ROUNDING_NANOS = 4
"""A cost is rounded once for each of seven classes: by half a nano-dollar at most, each."""


@dataclass(frozen=True, slots=True)
class CallPrice:
    """What the input of one call can cost, and what each token of its output costs at most.

    In nano-dollars over one denominator, so that all of it is integer arithmetic.
    """

    most_input: int
    """Where all of the input is billed at the dearest class."""
    least_input: int
    """The same at the cheapest class, which is a read from a cache."""
    output_rate: int
    denominator: int
    rounding_nanos: int

    def upper_bound(self, max_tokens: int) -> int:
        """Return what the call costs at most, in nano-dollars."""
        most = self.most_input + self.output_rate * max_tokens
        return -(-most // self.denominator) + self.rounding_nanos

    def certain(self) -> int:
        """Return what the call costs whatever its answer is, in nano-dollars."""
        return max(self.least_input // self.denominator - self.rounding_nanos, 0)

    def max_tokens(self, amount_nanos: int) -> int | None:
        """Return the most output that an amount pays for; None where it does not pay the input."""
        left = (amount_nanos - self.rounding_nanos) * self.denominator - self.most_input
        if left < 0:
            return None
        return min(left // self.output_rate, MAX_COUNT) if self.output_rate else MAX_COUNT


def call_price(
    book: PriceBook,
    model: str,
    input_tokens: int,
    at_seconds: int,
    *,
    provider: str | None = None,
    terms: Terms = STANDARD_TERMS,
    has_output: bool = True,
) -> CallPrice:
    """Return what a call with this input can cost; raise UnknownPrice, InvalidUsage.

    Without output (embeddings) the model needs no price for it.
    """
    check_count("input_tokens", input_tokens)
    price = book.price(model, at_seconds, provider=provider, terms=terms)
    if price is None:
        raise _unknown(model)
    card = price.card_for(Usage(input_tokens=input_tokens))
    fee, dearest, cheapest, output_rate = _rates(card)
    if fee is None or (dearest is None and input_tokens) or (output_rate is None and has_output):
        raise _unknown(model)
    return CallPrice(
        fee + (dearest or 0) * input_tokens,
        fee + (cheapest or 0) * input_tokens,
        output_rate or 0 if has_output else 0,
        card.denominator,
        0 if card.denominator == 1 else ROUNDING_NANOS,
    )


@lru_cache(maxsize=1_000)
def _rates(card: RateCard) -> tuple[int | None, int | None, int | None, int | None]:
    """Return the fee of a call, and of a token the dearest and cheapest input and the output.

    Each is None where nothing of its kind has a price.
    """
    fees = _known(card, Usage())
    if not fees:
        return None, None, None, None
    fee = fees[0]
    inputs = _known(
        card,
        Usage(input_tokens=1),
        Usage(cache_write_5m_tokens=1),
        Usage(cache_write_1h_tokens=1),
        Usage(cache_write_other_tokens=1),
        Usage(cache_read_tokens=1),
    )
    outputs = _known(card, Usage(output_tokens=1), Usage(output_tokens=1, reasoning_tokens=1))
    dearest, cheapest = (max(inputs) - fee, min(inputs) - fee) if inputs else (None, None)
    return fee, dearest, cheapest, max(outputs) - fee if outputs else None


def _known(card: RateCard, *usages: Usage) -> list[int]:
    """Return what usages cost, times the card's denominator; without those without a price."""
    costs = (card.exact_items(usage) for usage in usages)
    return [sum(items) for items in costs if items is not None]


def _unknown(model: str) -> UnknownPrice:
    return UnknownPrice(
        "has no known price, so nothing bounds what a call costs",
        field="model",
        value=model,
        remedy="set its prices with set_price, or hold an amount of your own with hold",
    )
