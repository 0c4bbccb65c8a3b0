"""A case in one line, and back: what `replay` takes, and what a campaign and `shrink` print.

SCENARIO:SEED:NUMBER                           drawn at random
SCENARIO:KIND,OPERATION,PLACE,LENGTH,BITS+…    with just these faults
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.faults import draw_faults
from dumpwriter.lab.faulttext import describe_faults, parse_faults
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world, recording_of
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.world import World


def open_case(line: str) -> tuple[World, tuple[Fault, ...]]:
    """The world and the faults of a case. Raises `UsageError`."""
    name, *rest = line.split(":")
    if name not in SCENARIOS or not 1 <= len(rest) <= 2:
        raise UsageError(f"{line!r} is not a case: give it as SCENARIO:SEED:NUMBER, the scenario one of {[*SCENARIOS]}")
    world = build_world(SCENARIOS[name])
    recording = recording_of(world)
    try:
        if len(rest) == 1:
            return world, parse_faults(rest[0], recording)
        seed, number = map(int, rest)
    except ValueError:
        raise UsageError(f"{line!r} is not a case: lab run and lab shrink print them as they are taken") from None
    return world, draw_faults(Chance(CaseKey(name, seed, number)), recording)


def describe_case(world: World, faults: Sequence[Fault]) -> str:
    """The line with just these faults."""
    return f"{world.scenario.name}:{describe_faults(faults)}"
