"""A case in one line, and back: what `replay` takes, and what a campaign and `shrink` print.

SCENARIO:SEED:NUMBER                           drawn at random
SCENARIO:KIND,OPERATION,PLACE,LENGTH,BITS+…    with just these faults
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.faults import Fault, FaultKind, draw_faults
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world
from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.world import World


def open_case(line: str) -> tuple[World, tuple[Fault, ...]]:
    """The world and the faults of a case. Raises `UsageError`."""
    name, *rest = line.split(":")
    if name not in SCENARIOS or not 1 <= len(rest) <= 2:
        raise UsageError(f"{line!r} is not a case: give it as SCENARIO:SEED:NUMBER, the scenario one of {[*SCENARIOS]}")
    world = build_world(SCENARIOS[name])
    try:
        if len(rest) == 1:
            return world, tuple(_parse_fault(text, world) for text in rest[0].split("+"))
        seed, number = map(int, rest)
    except ValueError:
        raise UsageError(f"{line!r} is not a case: lab run and lab shrink print them as they are taken") from None
    return world, draw_faults(Chance(CaseKey(name, seed, number)), world)


def describe_case(world: World, faults: Sequence[Fault]) -> str:
    """The line with just these faults."""
    return f"{world.scenario.name}:{'+'.join(map(_describe_fault, faults))}"


def _describe_fault(fault: Fault) -> str:
    kind, *numbers = fault
    return ",".join([kind.replace(" ", "-"), *map(str, numbers)])


def _parse_fault(text: str, world: World) -> Fault:
    """ValueError where it is none that can be drawn, or where it leaves the disk."""
    kind, *words = text.split(",")
    operation, place_bytes, length_bytes, bits = numbers = [int(word) for word in words]
    fault = Fault(FaultKind(kind.replace("-", " ")), operation, place_bytes, length_bytes, bits)
    if min(numbers) < 0 or place_bytes % SECTOR_SIZE_BYTES:
        raise ValueError(text)
    if place_bytes + max(length_bytes, SECTOR_SIZE_BYTES) > len(world.before):
        raise ValueError(text)
    if fault.kind == FaultKind.BIT_ROT and bits >= 8 * SECTOR_SIZE_BYTES:
        raise ValueError(text)
    return fault
