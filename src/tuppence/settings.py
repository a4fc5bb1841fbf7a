"""The settings, read from the environment here and nowhere else.

Constructors take plain arguments; these are the defaults where an argument is left out.
Each setting is described in docs/reference/settings.md.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuppence.errors import InvalidInput

LANGUAGES = ("en", "zh_TW")

WhenUnreachable = Literal["refuse", "journal"]
WHEN_UNREACHABLE: tuple[WhenUnreachable, ...] = ("refuse", "journal")
"""What becomes of calls while the database cannot be reached."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set from outside."""

    database_url: str
    """DATABASE_URL: where the ledger is; a SQLite file in the user's data directory by default."""
    cache_directory: Path
    """TUPPENCE_CACHE: where the price list is kept in a form that loads quickly."""
    language: str
    """TUPPENCE_LANGUAGE: "en" or "zh_TW"; by default what LC_ALL, LC_MESSAGES or LANG say."""
    warning_threshold: float
    """WARNING_THRESHOLD: share of a budget from which it is in WARNING, 0.8 by default."""
    critical_threshold: float
    """CRITICAL_THRESHOLD: share of a budget from which it is CRITICAL, 0.95 by default."""
    default_monthly_budget: str | None
    """DEFAULT_MONTHLY_BUDGET: dollars a month for throttlers that are given no budget; none."""
    when_unreachable: WhenUnreachable
    """TUPPENCE_WHEN_UNREACHABLE: "refuse" calls without a database, or "journal" them; "refuse"."""
    journal_directory: Path
    """TUPPENCE_JOURNAL: where calls are kept that are let through without a database."""
    redis_url: str | None
    """REDIS_URL: where processes share what they hold; none by default."""
    anthropic_api_key: str | None
    """ANTHROPIC_API_KEY: the key for calls to Anthropic; none by default."""
    anthropic_base_url: str | None
    """ANTHROPIC_BASE_URL: another place to send them to, such as a gateway; none by default."""
    openai_api_key: str | None
    """OPENAI_API_KEY: the key with which the gateway calls OpenAI; none by default."""
    openai_base_url: str | None
    """OPENAI_BASE_URL: another place to send these calls to; none by default."""
    upstreams_path: Path | None
    """TUPPENCE_UPSTREAMS: a file with the gateway's upstreams; those of the four above without."""
    key_secret: str | None
    """TUPPENCE_KEY_SECRET: what the gateway's keys are hashed with; a file's content by default."""
    key_secret_directory: Path
    """Where that file is for a ledger that is no file itself: the user's data directory."""


def wants_colours(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether the terminal may be coloured: NO_COLOR, set to anything, forbids it."""
    env = os.environ if environment is None else environment
    return not env.get("NO_COLOR")


def environment_value(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Return a variable that a file of the user's names, such as a key; None where it is empty."""
    env = os.environ if environment is None else environment
    return env.get(name) or None


def current_user() -> str:
    """Return the name of the account that runs the process, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings; raise InvalidInput for a value that cannot be used."""
    env = os.environ if environment is None else environment
    home = Path(env.get("HOME") or Path.home())
    data_home = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    cache_home = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    upstreams = env.get("TUPPENCE_UPSTREAMS")
    return Settings(
        database_url=env.get("DATABASE_URL") or f"sqlite:///{data_home / 'tuppence' / 'ledger.db'}",
        cache_directory=Path(env.get("TUPPENCE_CACHE") or cache_home / "tuppence"),
        language=_language(env),
        warning_threshold=_share(env, "WARNING_THRESHOLD", 0.8),
        critical_threshold=_share(env, "CRITICAL_THRESHOLD", 0.95),
        default_monthly_budget=env.get("DEFAULT_MONTHLY_BUDGET") or None,
        when_unreachable=check_when_unreachable(env.get("TUPPENCE_WHEN_UNREACHABLE") or "refuse"),
        journal_directory=Path(env.get("TUPPENCE_JOURNAL") or data_home / "tuppence" / "journal"),
        redis_url=env.get("REDIS_URL") or None,
        anthropic_api_key=env.get("ANTHROPIC_API_KEY") or None,
        anthropic_base_url=env.get("ANTHROPIC_BASE_URL") or None,
        openai_api_key=env.get("OPENAI_API_KEY") or None,
        openai_base_url=env.get("OPENAI_BASE_URL") or None,
        upstreams_path=Path(upstreams) if upstreams else None,
        key_secret=env.get("TUPPENCE_KEY_SECRET") or None,
        key_secret_directory=data_home / "tuppence",
    )


def check_when_unreachable(text: str) -> WhenUnreachable:
    """Return what becomes of calls without a database; raise InvalidInput for anything else."""
    for known in WHEN_UNREACHABLE:
        if text == known:
            return known
    raise InvalidInput(
        "is not what can become of a call",
        field="TUPPENCE_WHEN_UNREACHABLE",
        value=text,
        remedy=f"choose one of {', '.join(WHEN_UNREACHABLE)}",
    )


def _language(env: Mapping[str, str]) -> str:
    chosen = env.get("TUPPENCE_LANGUAGE")
    if chosen:
        name = chosen.replace("-", "_")
        if name in LANGUAGES:
            return name
        raise InvalidInput(
            "is not a language of tuppence",
            field="TUPPENCE_LANGUAGE",
            value=chosen,
            remedy=f"choose one of {', '.join(LANGUAGES)}",
        )
    locale = env.get("LC_ALL") or env.get("LC_MESSAGES") or env.get("LANG") or ""
    return "zh_TW" if locale.startswith(("zh_TW", "zh_HK", "zh_Hant")) else "en"


def _share(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise InvalidInput(
            "is not a share", field=name, value=text, remedy="give a number above 0 and up to 1"
        )
    return share
