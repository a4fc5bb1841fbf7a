"""Holds on both databases, with and without asyncio: one body for all ways to end one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.ledgers import contents
from tests.contract.throttlers import CENT, DOLLAR, Throttlers
from tuppence.budget.requests import End
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import (
    BudgetExceeded,
    BudgetPaused,
    HoldAlreadyEnded,
    HoldExpired,
    HoldKeyUsed,
    InvalidInput,
    TuppenceError,
    UnknownHold,
)


@pytest.fixture(params=["sync", "async"])
def throttlers(ledger: Ledger, request: pytest.FixtureRequest) -> Iterator[Throttlers]:
    """Return what opens throttlers, of both kinds on both databases."""
    with Throttlers(ledger, request.param) as made:
        yield made


def _refused(
    throttlers: Throttlers, error: type[TuppenceError], act: Any, *args: Any, **kwargs: Any
) -> TuppenceError:
    """Return the error of an action that has to change no row of any table."""
    before = contents(throttlers.ledger)
    with pytest.raises(error) as raised:
        act(*args, **kwargs)
    assert type(raised.value) is error
    assert contents(throttlers.ledger) == before
    return raised.value


def test_a_hold_takes_its_bound_and_settling_gives_back_the_rest(throttlers: Throttlers) -> None:
    """While a call runs its bound is held; then what it cost is spent and no more."""
    hold = throttlers().hold(0.5, certain=0.1)
    assert (hold.bound_nanos, hold.bound, hold.held_nanos) == (50 * CENT, 0.5, 50 * CENT)
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos) == (50 * CENT, 50 * CENT)
    hold.settle(0.2)
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos, tally.settled_count) == (20 * CENT, 0, 1)


@pytest.mark.parametrize(
    ("cents", "spent"), [(0, 0), (49, 49), (50, 50), (51, 51), (100_000, 100_000)]
)
def test_the_true_cost_is_booked_whatever_the_bound_was(
    throttlers: Throttlers, cents: int, spent: int
) -> None:
    """Money that a provider bills is spent, even beyond the bound and the limit."""
    hold = throttlers().hold(0.5)
    hold.settle(cents / 100)
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.spent_nanos, tally.held_nanos) == (
        spent * CENT,
        spent * CENT,
        0,
    )


def test_a_released_hold_leaves_nothing(throttlers: Throttlers) -> None:
    """What is given back is free again for a call that needs all of it."""
    throttler = throttlers(1)
    throttler.hold(1).release()
    assert throttlers.tally().total_nanos == 0
    throttler.hold(1).settle(0)
    assert throttlers.states() == ["released", "settled"]


def test_a_hold_is_taken_from_all_budgets_or_from_none(throttlers: Throttlers) -> None:
    """A call that one of its budgets refuses leaves no trace in the others."""
    throttler = throttlers(10)
    throttlers.set_budget("team", "red", 2 * DOLLAR)
    throttlers.set_budget("user", "ann", 1 * DOLLAR, period="day")
    throttlers.set_budget("tag", "nightly", 5 * DOLLAR, period="rolling", window_seconds=3_600)
    payer = {"team_id": "red", "user_id": "ann", "tags": ("nightly",)}
    throttler.hold(0.75, **payer)
    with pytest.raises(BudgetExceeded) as refused:
        throttler.hold(0.5, **payer)
    assert refused.value.value == "user ann, day"
    assert (refused.value.requested_nanos, refused.value.available_nanos) == (50 * CENT, 25 * CENT)
    scopes = (("throttler", "default"), ("team", "red"), ("user", "ann"), ("tag", "nightly"))
    assert [throttlers.tally(*scope).total_nanos for scope in scopes] == [75 * CENT] * 4


@pytest.mark.parametrize("ending", ["settle", "release"])
def test_ending_twice_is_an_error_of_its_own(throttlers: Throttlers, ending: str) -> None:
    """A hold ends once: whatever comes after changes no row."""
    throttler = throttlers()
    hold = throttler.hold(1)
    hold.settle(0.4) if ending == "settle" else hold.release()
    for again in (lambda: hold.settle(0.3), hold.release, lambda: hold.extend(60)):
        error = _refused(throttlers, HoldAlreadyEnded, again)
        assert (error.field, error.value) == ("hold", hold.id)
    _refused(throttlers, HoldAlreadyEnded, throttler.settle, hold.id, 0.3)
    _refused(throttlers, HoldAlreadyEnded, throttler.release, hold.id)
    _refused(throttlers, HoldAlreadyEnded, throttler.resolve, hold.id, 0.3)


def test_an_unknown_hold_is_an_error_of_its_own(throttlers: Throttlers) -> None:
    """An id that no hold has changes no row; what is no id at all says so."""
    throttler = throttlers()
    throttler.hold(1)
    for act in (throttler.settle, throttler.resolve, throttler.refund):
        assert _refused(throttlers, UnknownHold, act, "h7fffffff", 1).value == "h7fffffff"
        for name in ("", "7", "hold", "h-", "h 1 2"):
            assert _refused(throttlers, InvalidInput, act, name, 1).field == "hold"
    _refused(throttlers, UnknownHold, throttler.release, "h7fffffff")


def test_an_id_beyond_the_column_is_unknown_too(throttlers: Throttlers) -> None:
    """No number that is written as an id may reach the database and fail there."""
    throttler = throttlers()
    for name in ("h" + "f" * 16, "h" + "f" * 400, "h-1"):
        with pytest.raises((UnknownHold, InvalidInput)):
            throttler.settle(name, 1)


def test_an_expired_hold_is_an_error_of_its_own(throttlers: Throttlers) -> None:
    """After its lease a hold of another process cannot be settled, only resolved."""
    throttler = throttlers()
    hold = throttler.hold(1, lease_seconds=30)
    throttlers.clock.advance(seconds=31)
    throttler.record_usage(0)
    error = _refused(throttlers, HoldExpired, throttler.settle, hold.id, 0.5)
    assert hold.id in str(error.remedy)
    _refused(throttlers, HoldExpired, throttler.release, hold.id)


def test_a_used_key_is_an_error_of_its_own(throttlers: Throttlers) -> None:
    """A key makes one hold, also after that has ended, and from any throttler."""
    hold = throttlers().hold(1, idempotency_key="call 7")
    other = throttlers(name="other")
    other.hold(0.5).release()
    error = _refused(throttlers, HoldKeyUsed, other.hold, 0.5, idempotency_key="call 7")
    assert (error.field, error.value) == ("idempotency_key", "call 7")
    assert hold.id in error.problem
    hold.settle(1)
    _refused(throttlers, HoldKeyUsed, other.hold, 0.5, idempotency_key="call 7")
    other.hold(0.5, idempotency_key="call 8").settle(0.5)


def test_a_refused_hold_uses_no_key(throttlers: Throttlers) -> None:
    """A call that was refused may come again with its key."""
    throttler = throttlers(1)
    with pytest.raises(BudgetExceeded):
        throttler.hold(2, idempotency_key="call 7")
    throttler.hold(1, idempotency_key="call 7").settle(1)


def test_spending_with_a_used_key_counts_once(throttlers: Throttlers) -> None:
    """`record_usage` that is repeated with its key counts nothing the second time."""
    throttler = throttlers()
    for _ in range(3):
        throttler.record_usage(0.25, idempotency_key="bill 1")
    throttler.record_usage(0.25)
    assert throttlers.tally().total_nanos == 50 * CENT


def test_an_abandoned_hold_becomes_unresolved_and_is_resolved(throttlers: Throttlers) -> None:
    """A hold whose lease ran out counts at its bound until its true cost is told."""
    throttler = throttlers()
    hold = throttler.hold(1, lease_seconds=30)
    throttlers.clock.advance(seconds=31)
    throttler.record_usage(0)
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos, tally.unresolved_nanos) == (DOLLAR, 0, DOLLAR)
    throttler.resolve(hold.id, 0.3)
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos, tally.unresolved_nanos) == (30 * CENT, 0, 0)
    _refused(throttlers, HoldAlreadyEnded, throttler.resolve, hold.id, 0.3)


def test_a_block_left_without_settling_is_unresolved(throttlers: Throttlers) -> None:
    """Whoever leaves the block by an error may have been billed: the bound counts."""
    with pytest.raises(KeyError), throttlers().hold(1):
        raise KeyError
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos, tally.unresolved_nanos) == (DOLLAR, 0, DOLLAR)
    assert throttlers.states() == ["unresolved"]


@pytest.mark.parametrize("ending", ["settle", "release"])
def test_a_block_left_after_its_end_changes_nothing(throttlers: Throttlers, ending: str) -> None:
    """A block whose hold has ended inside it leaves as it is."""
    with throttlers().hold(1) as hold:
        hold.settle(0.5) if ending == "settle" else hold.release()
        before = contents(throttlers.ledger)
    assert contents(throttlers.ledger) == before


def test_a_block_left_after_its_lease_counts_once(throttlers: Throttlers) -> None:
    """A hold that was found abandoned while its block went on is not abandoned a second time."""
    throttler = throttlers()
    with throttler.hold(1, lease_seconds=30):
        throttlers.clock.advance(seconds=31)
        throttler.record_usage(0)
        before = contents(throttlers.ledger)
    assert contents(throttlers.ledger) == before
    assert throttlers.tally().unresolved_nanos == DOLLAR


@pytest.mark.parametrize("days", [1, -1])
def test_a_wall_clock_that_jumps_loses_nothing(throttlers: Throttlers, days: int) -> None:
    """By its owner's own clock the lease runs: it settles, in the period of admission."""
    throttler = throttlers()
    throttlers.set_budget("user", "ann", 5 * DOLLAR, period="day")
    hold = throttler.hold(1, user_id="ann")
    throttlers.clock.advance(days=days)
    throttler.record_usage(0.1, user_id="ann")
    hold.settle(0.25)
    assert throttlers.tally("user", "ann").total_nanos == 10 * CENT
    throttlers.clock.advance(days=-days)
    tally = throttlers.tally("user", "ann")
    assert (tally.total_nanos, tally.held_nanos, tally.unresolved_nanos) == (25 * CENT, 0, 0)


@pytest.mark.parametrize("days", [1, -1])
def test_a_release_after_a_jump_of_the_clock_gives_back(throttlers: Throttlers, days: int) -> None:
    """A call that was not made costs nothing, whatever the wall clock shows."""
    throttler = throttlers()
    hold = throttler.hold(1)
    throttlers.clock.advance(days=days)
    throttler.record_usage(0)
    hold.release()
    tally = throttlers.tally()
    assert (tally.total_nanos, tally.held_nanos, tally.unresolved_nanos) == (0, 0, 0)


def test_a_longer_lease_keeps_a_hold(throttlers: Throttlers) -> None:
    """An extended hold is not abandoned before its new end."""
    throttler = throttlers()
    hold = throttler.hold(1, lease_seconds=30)
    hold.extend(300)
    throttlers.clock.advance(seconds=299)
    throttler.record_usage(0)
    assert throttlers.states()[0] == "held"
    throttlers.clock.advance(seconds=2)
    throttler.record_usage(0)
    assert throttlers.states()[0] == "unresolved"


def test_a_smaller_bound_is_granted_where_less_is_left(throttlers: Throttlers) -> None:
    """`minimum` takes half of what is left, which leaves some for others, or what it says."""
    throttler = throttlers(1)
    throttlers.set_budget("team", "red", 70 * CENT)
    hold = throttler.hold(2, minimum=0.2, team_id="red")
    assert (hold.bound_nanos, hold.requested_nanos) == (50 * CENT, 2 * DOLLAR)
    assert throttlers.tally().held_nanos == throttlers.tally("team", "red").held_nanos == 50 * CENT
    with pytest.raises(BudgetExceeded):
        throttler.hold(2, minimum=0.51)
    assert throttler.hold(2, minimum=0.4).bound_nanos == 40 * CENT


def test_a_hold_in_flight_cannot_be_resolved(throttlers: Throttlers) -> None:
    """Resolving is for holds that were abandoned: one whose call runs is settled."""
    throttler = throttlers()
    hold = throttler.hold(1)
    _refused(throttlers, HoldAlreadyEnded, throttler.resolve, hold.id, 0.5)


def test_refunds_add_up_to_what_was_settled_at_most(throttlers: Throttlers) -> None:
    """What a provider gives back is free again, as rows of its own; never more than was paid."""
    throttler = throttlers()
    hold = throttler.hold(1)
    _refused(throttlers, HoldAlreadyEnded, throttler.refund, hold.id, 0.1)
    hold.settle(0.8)
    throttler.refund(hold.id, 0.3)
    assert throttlers.tally().total_nanos == 50 * CENT
    assert _refused(throttlers, InvalidInput, throttler.refund, hold.id, 0.51).field == "amount"
    throttler.refund(hold.id, 0.5)
    assert throttlers.tally().total_nanos == 0
    assert throttlers.states() == ["settled", "refund", "refund"]


def test_refunds_that_come_together_add_up_too(ledger: Ledger) -> None:
    """Two refunds of one batch know of each other."""
    with Throttlers(ledger) as throttlers:
        throttler = throttlers()
        hold = throttler.hold(1)
        hold.settle(0.8)
        engine, number = throttler.engine, int(hold.id[1:], 16)
        twice = [End(number, "refund", 80 * CENT, refund_id=engine.new_id()) for _ in range(2)]
        answers = engine._commit(twice)
        assert [isinstance(answer, InvalidInput) for answer in answers] == [False, True]
        assert throttlers.tally().total_nanos == 0


def test_a_refund_whose_answer_was_lost_is_repeated_without_harm(ledger: Ledger) -> None:
    """Trying again after a commit of which nobody knows gives back once."""
    with Throttlers(ledger) as throttlers:
        throttler = throttlers()
        hold = throttler.hold(1)
        hold.settle(0.8)
        end = End(int(hold.id[1:], 16), "refund", 30 * CENT, refund_id=throttler.engine.new_id())
        throttler.engine.perform(end)
        end.again = True
        repeated = threading.Thread(target=throttler.engine.perform, args=(end,), daemon=True)
        repeated.start()
        repeated.join(10)
        assert not repeated.is_alive()
        assert throttlers.tally().total_nanos == 50 * CENT


@pytest.mark.parametrize("ending", ["settled", "released", "unresolved"])
def test_an_end_whose_answer_was_lost_is_repeated_without_harm(ledger: Ledger, ending: str) -> None:
    """The same ending once more, marked as another attempt, is no error and counts once."""
    with Throttlers(ledger) as throttlers:
        throttler = throttlers()
        hold = throttler.hold(1)
        amount = 40 * CENT if ending == "settled" else 0
        end = End(int(hold.id[1:], 16), ending, amount)
        throttler.engine.perform(end)
        before = contents(ledger)
        end.again = True
        throttler.engine.perform(end)
        assert contents(ledger) == before


def test_a_paused_budget_lets_nothing_through_and_settles(throttlers: Throttlers) -> None:
    """Pausing stops new calls; those in flight are settled."""
    throttler = throttlers()
    hold = throttler.hold(1)
    throttlers.ledger.database.run(
        lambda tx: (
            tx.execute("UPDATE cost_budgets SET paused = 1")
            + tx.execute("UPDATE budget_version SET version = version + 1")
        )
    )
    error = _refused(throttlers, BudgetPaused, throttler.hold, 0.01)
    assert error.value == "throttler default, month"
    _refused(throttlers, BudgetPaused, throttler.hold, 0.01, wait_seconds=5)
    hold.settle(0.5)
    assert throttlers.tally().total_nanos == 50 * CENT


def test_a_lower_limit_refuses_at_once_and_a_raise_lets_through(throttlers: Throttlers) -> None:
    """A change of the limit holds for the next call, in a throttler that was open before too."""
    throttler = throttlers(10)
    throttler.hold(4)
    throttlers.set_budget("throttler", "default", 5 * DOLLAR)
    with pytest.raises(BudgetExceeded):
        throttler.hold(2)
    throttlers.raise_limit(1 * DOLLAR, "throttler", "default")
    throttler.hold(2).settle(2)


def test_modes_decide_as_they_say(throttlers: Throttlers) -> None:
    """Soft budgets only count, shadow ones also say what they would refuse."""
    throttlers.set_budget("team", "soft", 1 * DOLLAR, mode="soft")
    throttlers.set_budget("team", "shadow", 1 * DOLLAR, mode="shadow")
    throttler = throttlers(None, name="free")
    soft, shadow = throttler.hold(3, team_id="soft"), throttler.hold(3, team_id="shadow")
    assert soft.shadow_refusals == ()
    assert shadow.shadow_refusals == ("team shadow, month",)
    assert throttlers.tally("team", "soft").held_nanos == 3 * DOLLAR
    assert throttlers.tally("team", "shadow").held_nanos == 3 * DOLLAR


def test_expected_holds_the_bound_until_enough_is_known(throttlers: Throttlers) -> None:
    """Without 99 calls of its kind a budget of mode "expected" holds the bound itself."""
    throttler = throttlers(10, mode="expected", overdraft_share=1.0)
    for _ in range(98):
        throttler.hold(0.05, model="m", certain=0.001).settle(0.002)
    assert throttler.hold(1, model="m", certain=0.001).held_nanos == DOLLAR


def test_a_hold_without_budgets_is_free(throttlers: Throttlers) -> None:
    """Where no budget covers a call it is held by none, and ends as any other."""
    hold = throttlers(None, name="free").hold(3)
    assert hold.held_nanos == 0
    hold.settle(3)
    assert throttlers.states() == ["settled"]


def test_holds_of_other_priorities_are_counted_by_theirs(throttlers: Throttlers) -> None:
    """Settling, refunding and abandoning move what the hold's own priority has used."""
    throttler = throttlers()
    hold = throttler.hold(1, priority="high")
    throttler.hold(0.25, priority="low")
    assert throttlers.tally().used_nanos == [25 * CENT, 0, DOLLAR, 0]
    hold.settle(0.5)
    throttler.refund(hold.id, 0.2)
    assert throttlers.tally().used_nanos == [25 * CENT, 0, 30 * CENT, 0]
