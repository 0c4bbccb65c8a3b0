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
from dumpwriter.sizes import parse_number
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.recording import Recording
    from dumpwriter.lab.world import World


def open_case(line: str) -> tuple[World, tuple[Fault, ...]]:
    """The world and the faults of a case. Raises `UsageError`."""
    name, *rest = line.split(":")
    if name not in SCENARIOS or not 1 <= len(rest) <= 2:
        names = ", ".join(SCENARIOS)
        raise UsageError(f"{line!r} is not a case: give it as SCENARIO:SEED:NUMBER, the scenario one of {names}")
    world = build_world(SCENARIOS[name])
    try:
        return world, _faults(name, rest, recording_of(world))
    except UsageError as reason:
        raise UsageError(f"{line!r} is not a case: {reason}") from None


def _faults(scenario: str, words: Sequence[str], recording: Recording) -> tuple[Fault, ...]:
    if len(words) == 1:
        return parse_faults(words[0], recording)
    seed, number = map(parse_number, words)
    return draw_faults(Chance(CaseKey(scenario, seed, number)), recording)


def describe_case(world: World, faults: Sequence[Fault]) -> str:
    """The line with just these faults."""
    return f"{world.scenario.name}:{describe_faults(faults)}"
