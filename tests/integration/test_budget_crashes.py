"""Workers that are killed at random moments lose nothing and book nothing twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

import pytest

from tests.integration.budget_audit import Worker, check, check_abandoned, make_budgets, told

AT_WORK = 2
LONGEST_ROUND_SECONDS = 0.3


def kill_workers(url: str, rounds: int) -> None:
    """Kill a worker at a random moment and start another one, so often; prove the books 15 times.

    One worker goes on while the other one dies: a batch may hold requests of both.
    """
    chance = random.Random(rounds)
    make_budgets(url)
    with ExitStack() as stack:
        workers: list[Worker] = []

        def start() -> Worker:
            workers.append(stack.enter_context(Worker(url, f"{rounds}:{len(workers)}")))
            return workers[-1]

        alive = [start() for _ in range(AT_WORK)]
        for number in range(rounds):
            alive.append(start())
            alive[-1].wait_until_ready()
            time.sleep(chance.random() * LONGEST_ROUND_SECONDS)  # the random moment
            alive.pop(chance.randrange(AT_WORK)).kill()
            if number % (rounds // 15) == 0:
                check(url, workers)
        for worker in alive:
            worker.kill()
        check(url, workers)
        abandoned = check_abandoned(url, workers)
        booked = told(workers)
    print(
        f"{rounds} workers killed: {len(booked.settled) + len(booked.recorded):,} calls booked, "
        f"lost 0, doubled 0, {abandoned} holds unresolved"
    )
    assert len(booked.settled) > 10 * rounds


def test_killed_workers_lose_and_double_nothing(database_url: str) -> None:
    """After SIGKILL at 15 random moments each cost that a worker was told is booked once."""
    kill_workers(database_url, 15)


@pytest.mark.torture
def test_hundreds_of_killed_workers_lose_and_double_nothing(database_url: str) -> None:
    """After SIGKILL at 300 random moments each cost that a worker was told is booked once."""
    kill_workers(database_url, 300)
