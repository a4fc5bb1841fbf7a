"""What real agent traffic looks like, as quantiles measured on public traces, and draws from them.

How each table was computed, and what is assumed instead: docs/explanation/demo-traffic.md.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass

LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Between these levels a draw is interpolated; it never leaves the first and the last."""

CLAUDE_CODE = "GitHub entireio/cli, branch entire/checkpoints/v1, MIT"
KV_CACHE = "GitHub callanjfox/kv-cache-tester, Apache-2.0"
AZURE_CODE = "AzurePublicDataset 2023 code trace, CC-BY-4.0"
MOONCAKE = "GitHub kvcache-ai/Mooncake, conversation trace, Apache-2.0"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The quantiles of one quantity at LEVELS, with the public origin they were measured on."""

    origin: str
    values: tuple[float, ...]

    def at(self, level: float) -> float:
        """Return the value at a level: linear in log(1 + value), since the tails are long."""
        upper = bisect_right(LEVELS, level)
        if upper in {0, len(LEVELS)}:
            return self.values[max(0, upper - 1)]
        low, high = math.log1p(self.values[upper - 1]), math.log1p(self.values[upper])
        share = (level - LEVELS[upper - 1]) / (LEVELS[upper] - LEVELS[upper - 1])
        return math.expm1(low + share * (high - low))

    def draw(self, rng: random.Random) -> float:
        """Return a random value with this distribution."""
        return self.at(rng.random())

    def draw_count(self, rng: random.Random) -> int:
        """Return a random whole number with this distribution."""
        return round(self.draw(rng))

    def spread_counts(self, rng: random.Random, number: int) -> list[int]:
        """Return whole numbers, one from each `number`-th of the distribution, in random order.

        A few dozen free draws would miss the quantiles by chance; these cannot.
        """
        counts = [round(self.at((place + rng.random()) / number)) for place in range(number)]
        rng.shuffle(counts)
        return counts


REQUESTS_PER_SESSION = Quantiles(CLAUDE_CODE, (3, 10, 20, 46, 93, 167, 211, 263, 570))
FIRST_PROMPT = Quantiles(
    CLAUDE_CODE, (25_190, 27_020, 30_000, 41_460, 42_680, 43_940, 44_420, 107_400, 114_300)
)
PROMPT_GROWTH = Quantiles(CLAUDE_CODE, (14, 156, 293, 575, 1_158, 2_407, 4_382, 14_270, 30_710))
PROMPT_AFTER_COMPACTION = Quantiles(
    CLAUDE_CODE, (34_530, 43_200, 48_430, 55_000, 69_170, 112_700, 123_100, 127_100, 127_700)
)
PLAIN_INPUT = Quantiles(CLAUDE_CODE, (0, 1, 1, 8, 8, 10, 10, 13, 3_411))
SECONDS_BETWEEN_REQUESTS = Quantiles(
    # p99.9 was 37,130 s: cut to four hours, so that a session stays within its day.
    CLAUDE_CODE,
    (2.70, 3.67, 4.77, 6.99, 14.1, 66.0, 161, 983, 14_400),
)
OUTPUT = Quantiles(KV_CACHE, (59, 105, 137, 215, 424, 881, 1_501, 3_681, 7_805))

SUBAGENT_REQUESTS = Quantiles(KV_CACHE, (3, 5, 8, 11, 13, 17, 22, 24, 24))
SUBAGENT_FIRST_PROMPT = Quantiles(
    KV_CACHE, (8_909, 9_041, 9_510, 9_906, 10_460, 11_900, 13_340, 15_510, 16_750)
)
SUBAGENT_PROMPT_GROWTH = Quantiles(
    KV_CACHE, (195, 509, 1_010, 2_610, 5_869, 12_560, 17_640, 49_550, 67_710)
)
SUBAGENT_SECONDS_BETWEEN_REQUESTS = Quantiles(KV_CACHE, (3, 4, 6, 7, 13, 36.7, 59.6, 92, 137))
SUBAGENT_OUTPUT = Quantiles(KV_CACHE, (87, 131, 177, 233, 298, 419, 2_854, 4_910, 8_152))

SHORT_INPUT = Quantiles(AZURE_CODE, (17, 147, 578, 1_469, 2_744, 5_188, 7_303, 7_436, 7_437))
SHORT_OUTPUT = Quantiles(AZURE_CODE, (6, 7, 9, 13, 24, 55, 90, 251, 825))

CHAT_OUTPUT = Quantiles(MOONCAKE, (3, 24, 149, 356, 477, 609, 708, 1_105, 2_000))

SHARE_OF_SESSIONS_WITH_1H_CACHE = 86 / 161
"""Sessions that write for one hour (CLAUDE_CODE); all others write for five minutes."""

LARGEST_PROMPT = 168_000
"""Where the sessions of CLAUDE_CODE were compacted: hardly a longer prompt is seen in them."""
