"""The made-up company whose traffic is shown: teams, their projects and people, services."""

from __future__ import annotations

from typing import NamedTuple


class Team(NamedTuple):
    """A team with the projects it works on with coding agents, and its members."""

    name: str
    projects: tuple[str, ...]
    members: tuple[str, ...]
    model: str
    """What its coding agents run on."""


OPUS = "claude-opus-5-5"
SONNET = "claude-sonnet-5-5"
HAIKU = "claude-haiku-5-5"
GPT = "gpt-6-sol"
UNPRICED = "acme-large-1"

TEAMS = (
    Team(
        "payments",
        ("checkout-api", "fraud-rules"),
        ("amara", "bence", "chiyo", "dmitri", "elif", "farid"),
        OPUS,
    ),
    Team(
        "mobile",
        ("ios-app", "android-app"),
        ("giulia", "hamza", "ines", "jonas", "kavya", "liang"),
        OPUS,
    ),
    Team(
        "platform",
        ("build-pipeline", "infrastructure"),
        ("mateo", "nadia", "oskar", "priya", "quentin"),
        OPUS,
    ),
    Team("data", ("warehouse",), ("rosa", "sven", "tuyet", "umut"), SONNET),
    Team("customer-service", ("help-center",), ("valentina", "wanjiru", "xavier"), SONNET),
)

TASKS = ("feature", "bug_fix", "refactoring", "code_review", "tests")
COMPLEXITIES = {"simple": 1, "moderate": 5, "complex": 4}
"""How often a coding session is of each complexity, in tenths."""


class Service(NamedTuple):
    """A program that calls models by itself: whom its calls are charged to, and its model."""

    team: str
    project: str
    user: str
    task: str
    complexity: str
    provider: str
    model: str


CHATBOT = Service(
    "customer-service",
    "help-desk",
    "help-desk-bot",
    "customer_query",
    "simple",
    "anthropic",
    SONNET,
)
NIGHTLY_JOB = Service("data", "code-search", "sven", "indexing", "moderate", "anthropic", SONNET)
CONTRACT_REVIEW = Service(
    "payments", "contract-review", "contract-checker", "review", "moderate", "openai", GPT
)
TRIAL = Service("platform", "infrastructure", "nadia", "evaluation", "moderate", "acme", UNPRICED)
"""Someone tries a provider that no price list knows."""
