"""`kill -9` at random moments of boot, run, dump and recovery: eight always, 200 with `make prove`.

Another choice of moments: GHOSTDUMP_KILLS_SEED=n. A failure names its moment, which follows from the seed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.kills import LONGEST_SECONDS, VICTIMS, Subject, moment

if TYPE_CHECKING:
    from tests.machines import Machine

SEED = int(os.environ.get("GHOSTDUMP_KILLS_SEED", "1"))


def kill_again_and_again(machine: Machine, numbers: range) -> None:
    subject = Subject(machine)
    for number in numbers:
        now = moment(SEED, number)
        print(f"seed {SEED}, {now}", flush=True)  # noqa: T201 - shown where a test fails
        subject.suffer(now)
    subject.end()
    print(  # noqa: T201
        f"seed {SEED}, moments {numbers.start} to {numbers.stop - 1}: {dict(sorted(subject.outcomes.items()))}"
    )


def test_the_moments_follow_from_the_seed_and_reach_everything() -> None:
    moments = [moment(SEED, number) for number in range(200)]
    assert moments == [moment(SEED, number) for number in range(200)]
    assert {(now.phase, now.victim) for now in moments} == {
        (phase, who) for phase in LONGEST_SECONDS for who in VICTIMS
    }


def test_eight_kills_at_random_moments_cost_nothing_that_was_safe(machine: Machine) -> None:
    kill_again_and_again(machine, range(8))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_kills_at_200_random_moments_cost_nothing_that_was_safe(machine: Machine, first: int) -> None:
    kill_again_and_again(machine, range(first, first + 20))
