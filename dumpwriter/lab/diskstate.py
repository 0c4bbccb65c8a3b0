"""The state of a disk as what it was and what was written over it. A snapshot costs nothing: nothing is copied.

A state is immutable, so what was once found out about a range of it holds for every state with the same `version` of
that range: the versions are equal only where the bytes are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import BlockDevice
from vdisk.errors import DeviceError
from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from typing_extensions import Buffer


class Patch(NamedTuple):
    """The bytes `start_bytes` to `end_bytes` of a content that would lie at `place_bytes` if all of it were there.

    Torn writes share their content with whole ones: its hash is computed once, to compare it is to compare a pointer.
    """

    place_bytes: int
    content: bytes
    start_bytes: int
    end_bytes: int

    def within(self, run: Run) -> Patch | None:
        """The part that lies in a run of the disk; None where there is none."""
        start_bytes = max(self.start_bytes, run.physical_bytes - self.place_bytes)
        end_bytes = min(self.end_bytes, run.physical_bytes + run.length_bytes - self.place_bytes)
        return Patch(self.place_bytes, self.content, start_bytes, end_bytes) if start_bytes < end_bytes else None


class DiskState(BlockDevice):
    """`base` with patches over it, the later above the earlier. It can only be read, and in bad runs not even that."""

    def __init__(self, base: bytes, patches: Sequence[Patch], bad_runs: Sequence[Run] = ()) -> None:
        self.size_bytes = len(base)
        self.base = base
        self.patches = patches
        self.bad_runs = bad_runs

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        end_bytes = offset_bytes + view.nbytes
        self.check_range(offset_bytes, view.nbytes)
        if self.bad_within(Run(offset_bytes, view.nbytes)):
            raise DeviceError(f"{view.nbytes} bytes at {offset_bytes} cannot all be read")
        view[:] = memoryview(self.base)[offset_bytes:end_bytes]
        for place_bytes, content, start_bytes, stop_bytes in self.patches:
            first, stop = max(offset_bytes, place_bytes + start_bytes), min(end_bytes, place_bytes + stop_bytes)
            if first < stop:
                source = memoryview(content)[first - place_bytes : stop - place_bytes]
                view[first - offset_bytes : stop - offset_bytes] = source

    def version(self, runs: Sequence[Run]) -> Hashable:
        """What decides the bytes in these runs of the disk, and whether they can be read."""
        parts = tuple(part for run in runs for patch in self.patches if (part := patch.within(run)))
        return self.base, parts, tuple(bad for run in runs for bad in self.bad_within(run))

    def bad_within(self, run: Run) -> list[Run]:
        """The bad runs that touch this one."""
        end_bytes = run.physical_bytes + run.length_bytes
        return [
            bad
            for bad in self.bad_runs
            if bad.physical_bytes < end_bytes and run.physical_bytes < bad.physical_bytes + bad.length_bytes
        ]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:  # noqa: ARG002
        raise DeviceError("a state of a disk is not written to")

    def flush(self) -> None:
        pass

    def discard(self, offset_bytes: int, length_bytes: int) -> None:  # noqa: ARG002
        raise DeviceError("a state of a disk is not written to")
