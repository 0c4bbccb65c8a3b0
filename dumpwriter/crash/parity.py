"""Parity while a dump is written: what went out is added to its group, and a set that is through gives its frames.

Requests are handed out in order, so no more sets are begun and not finished than there are threads. Room for these is
made at arming. A set for which there is none is written without parity. Where the dump is cut, the sets that were begun
have parity over those of their frames that went out.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dumpwriter.crash.protection import GROUPS_MAX
from dumpwriter.formats.region import FrameKind
from dumpwriter.frames import FramePlan
from dumpwriter.xor import Accumulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dumpwriter.crash.plan import DumpPlan
    from dumpwriter.crash.protection import ParitySet


class SetBuffers:
    """Room for the parity of one set at a time."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.groups = [Accumulator() for _ in range(GROUPS_MAX)]
        self.covers: list[list[int]] = [[] for _ in range(GROUPS_MAX)]
        self.groups_spent: set[int] = set()
        self.requests_left = 0

    def begin(self, requests: int) -> None:
        for accumulator, covers in zip(self.groups, self.covers, strict=True):
            accumulator.clear()
            covers.clear()
        self.groups_spent.clear()
        self.requests_left = requests

    def give_up_requests(self) -> bool:
        """Whether there were any left."""
        with self.turn:
            were_left, self.requests_left = self.requests_left > 0, 0
        return were_left


class Parity:
    """The sets of one plan. Threads may call it side by side."""

    def __init__(self, plan: DumpPlan, buffers: Sequence[SetBuffers]) -> None:
        self._plan = plan
        self._turn = threading.Lock()
        self._free = list(buffers)
        self._open: dict[int, SetBuffers | None] = {}  # by the number of the set

    def cover(self, planned_slot: int, slot: int, content: memoryview) -> None:
        """Add a frame as it was written, and to which slot. What no set covers is passed over."""
        own, buffers = self._set_of(planned_slot)
        if own is not None and buffers is not None:
            with buffers.turn:
                _add(buffers, own.group_of(planned_slot), slot, content)

    def cover_lost(self, slot: int, content: memoryview) -> None:
        """Add a frame that no slot would take, so that it can be rebuilt. A group gives back one frame, not two."""
        own, buffers = self._set_of(slot)
        if own is None or buffers is None:
            return
        group = own.group_of(slot)
        with buffers.turn:
            if group not in buffers.groups_spent:
                buffers.groups_spent.add(group)
                _add(buffers, group, slot, content)

    def finish(self, frames: Sequence[FramePlan]) -> list[FramePlan]:
        """The parity frames of a set whose last request this was; they are to be written, and then released."""
        own, buffers = self._set_of(frames[0].sequence)
        if own is None or buffers is None:
            return []
        with buffers.turn:
            buffers.requests_left -= 1
            return [] if buffers.requests_left else _parity_frames(own, buffers)

    def finish_begun(self) -> Iterator[list[FramePlan]]:
        """The same of each set that was begun and gets no further request; each is given to one caller."""
        with self._turn:
            begun = list(self._open.items())
        for number, buffers in begun:
            if buffers is not None and buffers.give_up_requests():
                yield _parity_frames(self._plan.sets[number], buffers)

    def fill(self, frame: FramePlan, payload: memoryview) -> int:
        """The payload of a parity frame; how many bytes it takes."""
        content = self._accumulator(frame).content
        payload[: content.nbytes] = content
        return content.nbytes

    def release(self, parity_frames: Sequence[FramePlan]) -> None:
        number = parity_frames[0].part // GROUPS_MAX
        with self._turn:
            buffers = self._open.pop(number)
            if buffers is not None:
                self._free.append(buffers)

    def _set_of(self, slot: int) -> tuple[ParitySet | None, SetBuffers | None]:
        own = self._plan.set_of(slot)
        return own, self._buffers(own) if own is not None else None

    def _buffers(self, own: ParitySet) -> SetBuffers | None:
        """Those of a set, which is begun where it was not."""
        with self._turn:
            if own.number not in self._open:
                buffers = self._free.pop() if self._free else None
                if buffers is not None:
                    buffers.begin(own.request_count)
                self._open[own.number] = buffers
            return self._open[own.number]

    def _accumulator(self, frame: FramePlan) -> Accumulator:
        number, group = divmod(frame.part, GROUPS_MAX)
        buffers = self._open[number]
        assert buffers is not None
        return buffers.groups[group]


def _add(buffers: SetBuffers, group: int, slot: int, content: memoryview) -> None:
    buffers.groups[group].add(content)
    buffers.covers[group].append(slot)


def _parity_frames(own: ParitySet, buffers: SetBuffers) -> list[FramePlan]:
    frames = []
    for slot in own.parity_slots:
        group = own.group_of(slot)
        part = own.number * GROUPS_MAX + group
        frames.append(FramePlan(slot, FrameKind.PARITY, part=part, covers=tuple(sorted(buffers.covers[group]))))
    return frames
