"""`tuppence key create|list|revoke`: who may call through the gateway, and who pays for it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from tuppence.core.money import to_nanos
from tuppence.core.periods import from_micros
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.budget_tables import iso, print_json
from tuppence.entrypoints.cli.options import by_option, database_option, json_option
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.entrypoints.gateway.keys import (
    GatewayKey,
    KeyWish,
    create_key,
    list_keys,
    revoke_key,
)
from tuppence.entrypoints.gateway.secret import key_secret
from tuppence.language import translator
from tuppence.settings import load_settings


@click.group("key")
def command() -> None:
    """Make, list and revoke keys of the gateway."""


@command.command("create")
@click.option("--team", default="", help="Team that its calls are charged to.")
@click.option("--project", default="", help="Project that its calls are charged to.")
@click.option("--user", default="", help="User that its calls are charged to.")
@click.option("--models", default="", help="Models it may ask: claude-haiku-5-5,gpt-6-*.")
@click.option("--budget", metavar="DOLLARS", help="What may be spent through it in a month.")
@by_option
@json_option
@database_option
def create(
    team: str,
    project: str,
    user: str,
    models: str,
    budget: str | None,
    by: str,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Make a key and show it, this once."""
    wish = KeyWish(
        team=team,
        project=project,
        user=user,
        models=[one.strip() for one in models.split(",")] if models else (),
        monthly_budget_nanos=None if budget is None else to_nanos(budget, field="budget"),
        by=by,
    )
    with Ledger.open(database) as ledger:
        key, text = create_key(ledger, key_secret(ledger.database, load_settings()), wish)
    if as_json:
        print_json({**_document(key), "key": text})
        return
    _ = translator(load_settings().language)
    click.echo(text)
    click.echo(_("Key {id} is not shown again; keep it now.").format(id=key.id), err=True)


@command.command("list")
@json_option
@database_option
def list_all(database: str | None, *, as_json: bool) -> None:
    """Show all keys without their secrets, the oldest first."""
    with Ledger.open(database) as ledger:
        keys = list_keys(ledger)
    if as_json:
        print_json([_document(key) for key in keys])
    else:
        _show(keys)


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@by_option
@json_option
@database_option
def revoke(key_id: str, by: str, database: str | None, *, as_json: bool) -> None:
    """Let a key open nothing any more, within a second."""
    with Ledger.open(database) as ledger:
        key = revoke_key(ledger, key_id, by)
    if as_json:
        print_json(_document(key))
        return
    _ = translator(load_settings().language)
    click.echo(_("Key {id} is revoked.").format(id=key.id))


def _show(keys: Sequence[GatewayKey]) -> None:
    _ = translator(load_settings().language)
    if not keys:
        click.echo(_("There is no key. Make one: tuppence key create --team TEAM"))
        return
    draw(
        _("Keys of the gateway"),
        [
            Column(_("Id"), numeric=False),
            Column(_("Team"), numeric=False),
            Column(_("Project"), numeric=False),
            Column(_("User"), numeric=False),
            Column(_("Models"), numeric=False),
            Column(_("Created (UTC)"), numeric=False, from_width=80),
            Column(_("Revoked (UTC)"), numeric=False),
        ],
        [
            [
                *(key.id, key.team, key.project, key.user),
                "\n".join(key.models) or _("all"),
                _moment(key.created_at_micros),
                _moment(key.revoked_at_micros),
            ]
            for key in keys
        ],
    )


def _moment(micros: int | None) -> str:
    return "" if micros is None else f"{from_micros(micros):%Y-%m-%d %H:%M}"


def _document(key: GatewayKey) -> dict[str, object]:
    return {
        "id": key.id,
        "team": key.team,
        "project": key.project,
        "user": key.user,
        "models": list(key.models),
        "budget_tag": key.tag,
        "created_at": iso(key.created_at_micros),
        "created_by": key.created_by,
        "revoked_at": iso(key.revoked_at_micros),
    }
