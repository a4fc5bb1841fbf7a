"""What is summed in reports: the columns that a usage row and every roll-up share."""

from __future__ import annotations

from typing import NamedTuple


class Measures(NamedTuple):
    """Sums over calls; in the order of the columns in all tables."""

    request_count: int = 0
    unpriced_count: int = 0
    incomplete_count: int = 0
    input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_write_other_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_cost_nanos: int = 0
    cache_write_cost_nanos: int = 0
    cache_read_cost_nanos: int = 0
    output_cost_nanos: int = 0
    other_cost_nanos: int = 0
    cache_savings_nanos: int = 0

    @property
    def cost_nanos(self) -> int:
        """The whole cost: all cost items together; savings are information only."""
        return (
            self.input_cost_nanos
            + self.cache_write_cost_nanos
            + self.cache_read_cost_nanos
            + self.output_cost_nanos
            + self.other_cost_nanos
        )

    @property
    def cache_write_tokens(self) -> int:
        """Tokens written to the prompt cache, whatever their time to live."""
        return (
            self.cache_write_5m_tokens + self.cache_write_1h_tokens + self.cache_write_other_tokens
        )

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens."""
        return (
            self.input_tokens
            + self.cache_write_tokens
            + self.cache_read_tokens
            + self.output_tokens
        )

    def plus(self, other: Measures) -> Measures:
        """Return the sums of both."""
        return Measures(*map(int.__add__, self, other))

    def minus(self, other: Measures) -> Measures:
        """Return the differences."""
        return Measures(*map(int.__sub__, self, other))


COLUMNS = Measures._fields
