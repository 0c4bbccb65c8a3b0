"""Faults as text, and back: KIND,OPERATION,PLACE,LENGTH,BITS, with + between two. What a kind has no use for is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.faults import OF_PARTS, Fault, FaultKind
from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.lab.recording import Recording


def describe_faults(faults: Iterable[Fault]) -> str:
    return "+".join(map(_describe, faults))


def parse_faults(text: str, recording: Recording) -> tuple[Fault, ...]:
    """ValueError where one is none that can be drawn, or where it leaves the disk."""
    return tuple(_parse(part, recording) for part in text.split("+"))


def _describe(fault: Fault) -> str:
    kind, *numbers = fault
    return ",".join([kind.replace(" ", "-"), *map(str, numbers)])


def _parse(text: str, recording: Recording) -> Fault:
    kind, *words = text.split(",")
    operation, place_bytes, length_bytes, bits = numbers = [int(word) for word in words]
    fault = Fault(FaultKind(kind.replace("-", " ")), operation, place_bytes, length_bytes, bits)
    is_possible = (
        min(numbers) >= 0
        and place_bytes % SECTOR_SIZE_BYTES == 0
        and place_bytes + max(length_bytes, SECTOR_SIZE_BYTES) <= len(recording.before)
        and (fault.kind not in OF_PARTS or length_bytes % SECTOR_SIZE_BYTES == 0)
        and (fault.kind != FaultKind.BIT_ROT or bits < 8 * SECTOR_SIZE_BYTES)
        and (fault.kind != FaultKind.MOVED_EXTENT or operation < len(recording.extents))
    )
    if not is_possible:
        raise ValueError(text)
    return fault
