"""The state of a disk as what it was and what was written over it. A snapshot costs nothing: nothing is copied.

A state is immutable, so what was once found out about a piece of it holds for every state in which the same decides the
bytes of that piece: `pieces` tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import BlockDevice
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.passing_errors import PassingErrors

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        place_bytes, content, start_bytes, end_bytes = self
        first_bytes = run.physical_bytes - place_bytes
        behind_bytes = first_bytes + run.length_bytes
        if first_bytes <= start_bytes and end_bytes <= behind_bytes:
            return self if start_bytes < end_bytes else None
        if end_bytes <= first_bytes or behind_bytes <= start_bytes or start_bytes == end_bytes:
            return None
        return Patch(place_bytes, content, max(start_bytes, first_bytes), min(end_bytes, behind_bytes))


class DiskState(BlockDevice):
    """`base` with patches over it, the later above the earlier. It can only be read, and in bad runs not even that."""

    def __init__(
        self, base: bytes, patches: Sequence[Patch], bad_runs: Sequence[Run] = (), passing_runs: Sequence[Run] = ()
    ) -> None:
        self.size_bytes = len(base)
        self.base = base
        self.patches = patches
        self.bad_runs = bad_runs
        self.passing_runs = passing_runs

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        run = Run(offset_bytes, view.nbytes)
        if self.bad_within(run):
            raise DeviceError(f"{view.nbytes} bytes at {offset_bytes} cannot all be read")
        for part in reversed(self._seen_in(run)):
            first_bytes = part.place_bytes + part.start_bytes - offset_bytes
            end_bytes = part.place_bytes + part.end_bytes - offset_bytes
            view[first_bytes:end_bytes] = memoryview(part.content)[part.start_bytes : part.end_bytes]

    def _seen_in(self, run: Run) -> list[Patch]:
        """What lies in a run, the uppermost first, down to one that hides all below it."""
        parts = []
        for patch in reversed(self.patches):
            if (part := patch.within(run)) is not None:
                parts.append(part)
                if part.end_bytes - part.start_bytes == run.length_bytes:
                    return parts
        return [*parts, Patch(0, self.base, run.physical_bytes, run.physical_bytes + run.length_bytes)]

    def moved(self, run: Run, place_bytes: int) -> list[Patch]:
        """What lies in a run, as patches that put it elsewhere."""
        distance_bytes = place_bytes - run.physical_bytes
        parts = reversed(self._seen_in(run))
        return [part._replace(place_bytes=part.place_bytes + distance_bytes) for part in parts]

    def bad_within(self, run: Run) -> list[Run]:
        """The bad runs that touch this one."""
        return [bad for bad in self.bad_runs if bad.meets(run)]

    def to_one_reader(self) -> BlockDevice:
        """The disk as somebody meets it who reads for the first time: what touches a passing run fails once."""
        return PassingErrors(self, self.passing_runs) if self.passing_runs else self

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:  # noqa: ARG002
        raise DeviceError("a state of a disk is not written to")

    def flush(self) -> None:
        pass

    def discard(self, offset_bytes: int, length_bytes: int) -> None:  # noqa: ARG002
        raise DeviceError("a state of a disk is not written to")
