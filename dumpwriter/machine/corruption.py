"""A bad write into the memory of a standby, from outside and for real: through /proc/PID/mem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.formats.runtime import STANDBY_NAMES
from dumpwriter.machine.status import describe
from vdisk.errors import MountError

if TYPE_CHECKING:
    from dumpwriter.runtime import RuntimeFile

SCRIBBLE_SIZE_BYTES = 8


class Target(NamedTuple):
    """A piece of a process's memory."""

    pid: int
    address: int
    size_bytes: int


class Corruption(NamedTuple):
    """What of which standbys is written over."""

    part: str
    ranks: tuple[int, ...]


CODE, EXTENTS, CONTROL_BLOCK = "code", "extents", "control block"
CORRUPTIONS = {
    "corrupted-clone": Corruption(CODE, (0,)),
    "corrupted-extents": Corruption(EXTENTS, (0,)),
    "corrupted-control-block": Corruption(CONTROL_BLOCK, (0,)),
    "corrupted-clones": Corruption(CODE, (0, 1)),
}


def corrupt(machine: RuntimeFile, corruption: Corruption) -> str:
    """Carry it out, and tell what was done. Raises `MountError` where there is no such standby, or the host refuses."""
    facts = describe(machine)
    living = {row["rank"]: row for row in facts["standbys"] if row["pid"]}
    for rank in corruption.ranks:
        if rank not in living:
            raise MountError(f"the {STANDBY_NAMES[rank]} standby is not there: wait until the machine is armed again")
    targets = [_target(facts, living[rank], corruption.part) for rank in corruption.ranks]
    return "; ".join(_scribble(target) for target in targets)


def _target(facts: dict[str, Any], standby: dict[str, Any], part: str) -> Target:
    if part == CODE:
        place = next(row for row in facts["drivers"] if row["pid"] == standby["pid"])
    else:
        place = standby["control_block"] if part == CONTROL_BLOCK else standby["control_block"]["extents"]
    return Target(standby["pid"], place["address"], place["size_bytes"])


def _scribble(target: Target) -> str:
    """Turn each bit of some bytes in the middle."""
    address = target.address + target.size_bytes // 2
    try:
        with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            content = memory.read(SCRIBBLE_SIZE_BYTES)
            memory.seek(address)
            memory.write(bytes(byte ^ 0xFF for byte in content))
    except OSError as refusal:
        raise MountError(f"cannot write to the memory of process {target.pid}: {refusal.strerror}") from None
    return f"wrote over {SCRIBBLE_SIZE_BYTES} bytes at {address:#x} of process {target.pid}"
