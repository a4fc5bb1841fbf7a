"""Names to integer ids: each name stands once in the database, rows refer to it by number.

Ids that a transaction has found are remembered for the next one only after it has committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuppence.core.attribution import Attribution
from tuppence.core.prices import Price
from tuppence.storage.database import Transaction

PLAIN = {"team": "teams", "project": "projects", "user": "people", "tag": "tags"}
"""The dictionaries with one column, by what they name."""

Key = tuple[str, ...]


KnownIds = dict[tuple[str, object], Any]
"""Ids that are committed, by dictionary and name; shared by all transactions of a process."""


class Dictionary:
    """Finds and makes ids within one transaction."""

    def __init__(self, tx: Transaction, known: KnownIds) -> None:
        self._tx = tx
        self._known = known
        self.found: KnownIds = {}
        """What this transaction has found or made: known to others once it has committed."""

    def attribution_ids(self, attributions: Iterable[Attribution]) -> dict[Attribution, int]:
        """Return the id of each combination (sessions and agents aside), made where new."""
        wanted = {a: a._replace(session_id="", agent_id="") for a in set(attributions)}
        for combination in sorted(set(wanted.values())):
            if self._find("attribution", combination) is None:
                self._add_attribution(combination)
        return {a: self._get("attribution", combination) for a, combination in wanted.items()}

    def team_and_project(self, attribution_id: int) -> tuple[int, int]:
        """Return the ids of an attribution's team and project, 0 for none."""
        key = ("team and project", attribution_id)
        pair: tuple[int, int] | None = self._known.get(key) or self.found.get(key)
        if pair is None:
            query = "SELECT team_ref, project_ref FROM attributions WHERE id = ?"
            ((team, project),) = self._tx.rows(query, (attribution_id,))
            pair = self.found[key] = (team or 0, project or 0)
        return pair

    def attribution_of(self, attribution_id: int, session_id: int | None) -> Attribution:
        """Return the names behind a usage row's references."""
        key = ("attribution of", (attribution_id, session_id))
        known: Attribution | None = self._known.get(key) or self.found.get(key)
        if known is None:
            known = self.found[key] = self._read_attribution(attribution_id, session_id)
        return known

    def session_ids(self, sessions: Iterable[Key]) -> dict[Key, int | None]:
        """Return the id of each (session, agent); None where both are empty."""
        named = {session for session in sessions if any(session)}
        return {("", ""): None, **self._ids("sessions", ("name", "agent"), named)}

    def model_ids(self, models: Iterable[Key]) -> dict[Key, int]:
        """Return the id of each (provider, model)."""
        return self._ids("models", ("provider", "name"), set(models))

    def name_id(self, kind: str, name: str) -> int:
        """Return the id of a team, project, user or tag, made where new."""
        return self._ids(PLAIN[kind], ("name",), {(name,)})[(name,)]

    def price_id(self, price: Price) -> int:
        """Return the id of a price that is being booked at, kept as it is now."""
        found = self._find("price", price)
        if found is None:
            found = self.found["price", price] = self._add_price(price)
        return int(found)

    def _find(self, kind: str, name: object) -> Any:
        key = (kind, name)
        return self._known.get(key) or self.found.get(key)

    def _get(self, kind: str, name: object) -> Any:
        found = self._find(kind, name)
        if found is None:
            raise KeyError(kind, name)
        return found

    def _ids(self, table: str, columns: Sequence[str], names: set[Key]) -> dict[Key, int]:
        for name in sorted(name for name in names if self._find(table, name) is None):
            row = dict(zip(columns, name, strict=True))
            self.found[table, name] = _id_of(self._tx, table, row)
        return {name: self._get(table, name) for name in names}

    def _add_attribution(self, combination: Attribution) -> None:
        team = self._optional_id("team", combination.team_id)
        project = self._optional_id("project", combination.project_id)
        person = self._optional_id("user", combination.user_id)
        task = (combination.task_type or None, combination.task_complexity or None)
        tags = [self.name_id("tag", tag) for tag in combination.tags]
        columns = ("team_ref", "project_ref", "person_ref", "task_type", "task_complexity")
        values = dict(zip(columns, (team, project, person, *task), strict=True))
        identity = {"digest": _digest(team, project, person, *task, *tags)}
        number = _id_of(self._tx, "attributions", identity, values)
        for tag in tags:
            self._tx.execute(
                "INSERT INTO attribution_tags (attribution_ref, tag_ref) VALUES (?, ?) "
                "ON CONFLICT DO NOTHING",
                (number, tag),
            )
        self.found["attribution", combination] = number

    def _read_attribution(self, attribution_id: int, session_id: int | None) -> Attribution:
        ((team, project, user, task_type, task_complexity),) = self._tx.rows(
            "SELECT t.name, p.name, u.name, a.task_type, a.task_complexity FROM attributions a "
            "LEFT JOIN teams t ON t.id = a.team_ref LEFT JOIN projects p ON p.id = a.project_ref "
            "LEFT JOIN people u ON u.id = a.person_ref WHERE a.id = ?",
            (attribution_id,),
        )
        tags = self._tx.rows(
            "SELECT g.name FROM attribution_tags a JOIN tags g ON g.id = a.tag_ref "
            "WHERE a.attribution_ref = ?",
            (attribution_id,),
        )
        query = "SELECT name, agent FROM sessions WHERE id = ?"
        ((session, agent),) = self._tx.rows(query, (session_id,)) if session_id else [("", "")]
        names = (team or "", project or "", user or "", task_type or "", task_complexity or "")
        return Attribution(*names, tuple(sorted(tag for (tag,) in tags)), session, agent)

    def _optional_id(self, kind: str, name: str) -> int | None:
        return self.name_id(kind, name) if name else None

    def _add_price(self, price: Price) -> int:
        row = {
            "provider": price.provider,
            "model": price.model,
            "terms": price.terms.encode() or "",
            "rates": price.canonical_rates(),
            "source": price.source,
        }
        return _id_of(self._tx, "applied_prices", {"digest": _digest(*row.values())}, row)


def _id_of(
    tx: Transaction,
    table: str,
    identity: Mapping[str, object],
    rest: Mapping[str, object] | None = None,
) -> int:
    """Return the id of the row with this identity; insert it where there is none."""
    condition = " AND ".join(f"{column} = ?" for column in identity)
    query = f"SELECT id FROM {table} WHERE {condition}"
    found = tx.rows(query, tuple(identity.values()))
    if not found:
        row = {**identity, **(rest or {})}
        marks = ", ".join("?" * len(row))
        found = tx.rows(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) "
            "ON CONFLICT DO NOTHING RETURNING id",
            tuple(row.values()),
        ) or tx.rows(query, tuple(identity.values()))
    return int(found[0][0])


def _digest(*parts: object) -> bytes:
    text = "\x00".join("" if part is None else str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
