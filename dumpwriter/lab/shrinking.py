"""A case that goes wrong, made simpler step by step for as long as it still goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.faults import OF_SECTORS, FaultKind
from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dumpwriter.lab.faults import Fault


def shrink(faults: Sequence[Fault], is_bad: Callable[[Sequence[Fault]], bool]) -> tuple[Fault, ...]:
    """The faults, which must be bad, made simpler step by step until every further step makes them something else.

    What is bad should be one kind of failure: a simpler way into another one says nothing of the first.
    """
    smallest = tuple(faults)
    while (simpler := next(filter(is_bad, _simpler(smallest)), None)) is not None:
        smallest = simpler
    return smallest


def _simpler(faults: tuple[Fault, ...]) -> Iterator[tuple[Fault, ...]]:
    """One fault less, or one of them smaller."""
    for index, fault in enumerate(faults):
        before, behind = faults[:index], faults[index + 1 :]
        if len(faults) > 1:
            yield before + behind
        for smaller in _smaller(fault):
            yield (*before, smaller, *behind)


def _smaller(fault: Fault) -> Iterator[Fault]:
    """Fewer writes in flight that are kept, less late, fewer sectors from either end: each by some number in it."""
    if fault.kind in (FaultKind.POWER_CUT, FaultKind.RESET):
        for bit in range(fault.bits.bit_length()):
            if fault.bits >> bit & 1:
                yield fault._replace(bits=fault.bits & ~(1 << bit))
    elif fault.kind == FaultKind.LATE_WRITE and fault.bits > 1:
        yield fault._replace(bits=fault.bits - 1)
    elif fault.kind in OF_SECTORS and fault.length_bytes > SECTOR_SIZE_BYTES:
        rest_bytes = fault.length_bytes - SECTOR_SIZE_BYTES
        yield fault._replace(length_bytes=rest_bytes)
        yield fault._replace(place_bytes=fault.place_bytes + SECTOR_SIZE_BYTES, length_bytes=rest_bytes)
