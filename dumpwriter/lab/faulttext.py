"""Faults as text, and back: KIND,OPERATION,PLACE,LENGTH,BITS, with + between two. What a kind has no use for is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.faults import DRAWERS, EXTENTS, FLUSHES, OF_PARTS, OF_SECTORS, TRACE, WRITES, Fault, FaultKind
from dumpwriter.sizes import parse_number
from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from dumpwriter.lab.recording import Recording

DIGITS_MAX = 4300  # of which Python makes a number
SECTOR_BITS = 8 * SECTOR_SIZE_BYTES
KINDS = {kind.replace(" ", "-"): kind for kind in FaultKind}
# By what a fault is drawn from: the operations, or extents, at which there can be one.
NUMBERS: dict[object, Callable[[Recording], Collection[int]]] = {
    TRACE: lambda recording: range(len(recording.trace)),
    WRITES: lambda recording: recording.writes,
    FLUSHES: lambda recording: recording.flushes,
    EXTENTS: lambda recording: range(len(recording.extents)),
}


def describe_faults(faults: Iterable[Fault]) -> str:
    return "+".join(map(_describe, faults))


def parse_faults(text: str, recording: Recording) -> tuple[Fault, ...]:
    """Raises `UsageError` where one is none, or none that this recording can meet."""
    return tuple(_parse(part, recording) for part in text.split("+"))


def _describe(fault: Fault) -> str:
    kind, *numbers = fault
    return ",".join([kind.replace(" ", "-"), *map(str, numbers)])


def _parse(text: str, recording: Recording) -> Fault:
    name, *words = text.split(",")
    if name not in KINDS or len(words) != len(Fault._fields) - 1:
        raise UsageError(f"{text!r} is no KIND,OPERATION,PLACE,LENGTH,BITS, the kind one of {', '.join(KINDS)}")
    operation, place_bytes, length_bytes = map(parse_number, words[:3])
    fault = Fault(KINDS[name], operation, place_bytes, length_bytes, _bits(words[3], recording))
    _check_operation(fault, recording)
    _check_place(fault, recording)
    _check_length(fault, recording)
    if fault.kind == FaultKind.BIT_ROT and fault.bits >= SECTOR_BITS:
        raise UsageError(f"a sector has no bit {fault.bits}")
    return fault


def _bits(word: str, recording: Recording) -> int:
    """There may be one for each operation, and so more of them than other numbers have."""
    bits = max(len(recording.trace), SECTOR_BITS.bit_length() - 1)
    if not (word.isascii() and word.isdigit()) or len(word) > min(bits, DIGITS_MAX) or int(word) >> bits:
        raise UsageError(f"{word!r} is no number of up to {bits} bits")
    return int(word)


def _check_operation(fault: Fault, recording: Recording) -> None:
    is_behind_all = fault.kind == FaultKind.POWER_CUT and fault.operation == len(recording.trace)
    _, drawn_from = DRAWERS[fault.kind]
    if not is_behind_all and fault.operation not in NUMBERS[drawn_from](recording):
        what = "extent" if drawn_from is EXTENTS else "operation"
        raise UsageError(f"there is no {what} {fault.operation} for a fault of the kind {fault.kind}")


def _check_place(fault: Fault, recording: Recording) -> None:
    """What lies there then is on the disk, too."""
    length_bytes = max(fault.length_bytes, SECTOR_SIZE_BYTES)
    if fault.kind == FaultKind.MISDIRECTED:
        length_bytes = recording.trace[fault.operation].length_bytes
    elif fault.kind == FaultKind.MOVED_EXTENT:
        length_bytes = recording.extents[fault.operation].length_bytes
    if fault.place_bytes % SECTOR_SIZE_BYTES:
        raise UsageError(f"place {fault.place_bytes} is no multiple of {SECTOR_SIZE_BYTES}")
    if fault.place_bytes + length_bytes > len(recording.before):
        raise UsageError(
            f"{length_bytes} bytes from place {fault.place_bytes} on leave the disk, which has {len(recording.before)}"
        )


def _check_length(fault: Fault, recording: Recording) -> None:
    """Of a write, no more is taken than it has."""
    if fault.kind in (*OF_SECTORS, *OF_PARTS) and fault.length_bytes % SECTOR_SIZE_BYTES:
        raise UsageError(f"length {fault.length_bytes} is no multiple of {SECTOR_SIZE_BYTES}")
    if fault.kind in (FaultKind.TORN_WRITE, *OF_PARTS):
        whole_bytes = recording.trace[fault.operation].length_bytes
        if fault.length_bytes > whole_bytes:
            raise UsageError(f"operation {fault.operation} has no {fault.length_bytes} bytes, but {whole_bytes}")
