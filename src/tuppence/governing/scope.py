"""Who the calls of a piece of code are charged to, whatever client they go through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

from tuppence.budget.scopes import Payer, scopes_of
from tuppence.core.attribution import Attribution
from tuppence.cost_tracking.budgets import Scope


class Payment(NamedTuple):
    """Who pays for a call, and how urgent it is."""

    attribution: Attribution = Attribution()
    priority: str = ""
    """Empty where nothing is said."""

    def within(self, inner: Payment) -> Payment:
        """Return this with what an inner scope says: its names go before, its tags are added."""
        return Payment(
            _merged(self.attribution, inner.attribution), inner.priority or self.priority
        )

    def scopes(self, throttler: str) -> tuple[Scope, ...]:
        """Return the scopes whose budgets cover the call, and that of a throttler."""
        return _scopes(self, throttler)

    @property
    def payer(self) -> Payer:
        """The names as budgets know them."""
        who = self.attribution
        return Payer(
            team_id=who.team_id,
            project_id=who.project_id,
            user_id=who.user_id,
            session_id=who.session_id,
            agent_id=who.agent_id,
            tags=who.tags,
        )


NOBODY = Payment()
_scope: ContextVar[Payment] = ContextVar("tuppence_scope", default=NOBODY)


@contextmanager
def scope(
    *,
    team: str = "",
    project: str = "",
    user: str = "",
    session: str = "",
    agent: str = "",
    task_type: str = "",
    tags: Sequence[str] = (),
    priority: str = "",
) -> Iterator[None]:
    """Charge the governed calls inside to these names; scopes nest, the inner one goes before.

    It goes with asyncio's tasks and with `asyncio.to_thread`. A thread that you start yourself
    begins without it, as with every context variable: run `contextvars.copy_context().run` there.
    Raises InvalidInput for a name that cannot be one.
    """
    inner = payment_of(team, project, user, session, agent, task_type, tags, priority)
    token = _scope.set(_scope.get().within(inner))
    try:
        yield
    finally:
        with suppress(ValueError):  # left in another context, in which it was never entered
            _scope.reset(token)


def current_scope() -> Payment:
    """Return what the scopes around the caller say."""
    return _scope.get()


def payment_of(
    team: str,
    project: str,
    user: str,
    session: str,
    agent: str,
    task_type: str,
    tags: Sequence[str],
    priority: str,
) -> Payment:
    """Return names as they are charged; raise InvalidInput for one that cannot be used."""
    attribution = Attribution(
        team_id=team,
        project_id=project,
        user_id=user,
        task_type=task_type,
        tags=tuple(sorted(set(tags))),
        session_id=session,
        agent_id=agent,
    )
    return Payment(attribution.check(), priority)


@lru_cache(maxsize=10_000)
def _scopes(payment: Payment, throttler: str) -> tuple[Scope, ...]:
    return scopes_of(payment.payer, throttler)


@lru_cache(maxsize=10_000)
def _merged(outer: Attribution, inner: Attribution) -> Attribution:
    if inner == NOBODY.attribution:
        return outer
    said = {name: value for name, value in inner._asdict().items() if value}
    return outer._replace(**{**said, "tags": tuple(sorted({*outer.tags, *inner.tags}))})
