"""The pager: moves pages of the simulated processes out to the page file and back, and checks each on its way back.

A page is written to the page file before its entry says so, and its frame is freed last; it is in its frame before its
entry says so, and its slot is freed last. So a machine that is killed half-way leaves page tables that are true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

import blake3

from dumpwriter.frames import slot_count, slot_offset_bytes
from dumpwriter.machine.workingset import Away, WorkingSet
from dumpwriter.memory.kernel import direct_address
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from vdisk.errors import DeviceError, GhostdumpError

if TYPE_CHECKING:
    from dumpwriter.memory.usermemory import UserMemory
    from vdisk.blockdevice import BlockDevice

RESIDENT_SHARE = 2  # one page of so many may stay in memory
EVICTIONS_PER_TOUCH = 2
PHASE_TOUCHES = 2048  # how long the processes work on the same pages
HOT_SHARE = 8  # of so many pages they work on one,
COLD_TOUCHES = 4  # but for every fourth touch, which is of any page
INPAGE_ERROR = 0x7A  # KERNEL_DATA_INPAGE_ERROR
STATUS_DEVICE_DATA_ERROR = 0xC000_009C
STATUS_CRC_ERROR = 0xC000_003F


class InPageError(GhostdumpError):
    """A page did not come back from the page file as it went. `parameters` are those of bugcheck 0x7A.

    They are the address of its page table entry, a status, what stands in the entry, and its virtual address.
    """

    def __init__(self, message: str, parameters: tuple[int, int, int, int]) -> None:
        super().__init__(message)
        self.parameters = parameters


class Counts(NamedTuple):
    """What the pager did so far. A failure is a page that could not be written, or did not come back."""

    pages_resident: int
    pages_out: int
    page_outs: int
    page_ins: int
    checks: int
    failures: int


def slots_of(region_size_bytes: int) -> range:
    """The blocks of a page file that pages may lie in.

    The first block is a dump header, and from the last frame's slot on, where the clone rehearses and the other header
    lies, nothing is paged either: pager and clone never write the same block while the machine runs.
    """
    last_frame = slot_count(region_size_bytes) - 1
    return range(1, slot_offset_bytes(max(last_frame, 0)) // PAGE_SIZE_BYTES)


class Pager:
    """Carries out what the working set decides. `page_file` is the region as a device of the live driver stack.

    Raises `FormatError` where the page tables are not such as it can begin with.
    """

    def __init__(self, memory: UserMemory, page_file: BlockDevice) -> None:
        self._memory = memory
        self._page_file = page_file
        self._set = WorkingSet(memory.frames(), slots_of(page_file.size_bytes))
        self._touches = 0
        self.page_count = memory.processes.page_count
        self.resident_max = self.page_count // RESIDENT_SHARE
        self.page_outs = self.page_ins = self.checks = self.failures = 0

    def counts(self) -> Counts:
        resident, away = self._set.resident_count, self._set.away_count
        return Counts(resident, away, self.page_outs, self.page_ins, self.checks, self.failures)

    def run_processes(self, touches: int) -> None:
        """Let the processes use so many pages, one after the other. Raises `InPageError`."""
        for _ in range(touches):
            self.touch(page_of_touch(self._touches, self.page_count))
            self._touches += 1

    def touch(self, page: int) -> None:
        """Let a process use a page, which is in memory then. Raises `InPageError` where it cannot be."""
        frame = self._set.frame(page)
        if frame is None:
            frame = self._move_in(page)
        self._set.refer(page)
        self._memory.use(frame)
        for _ in range(EVICTIONS_PER_TOUCH):
            if self._set.resident_count > self.resident_max:
                self._move_out()

    def bring_all_back(self) -> None:
        """Empty the page file: somebody wants its blocks, or the memory whole. Raises `InPageError`."""
        for page in range(self.page_count):
            if self._set.frame(page) is None:
                self._move_in(page)

    def _move_out(self) -> None:
        """A page whose write fails stays in memory; what else lies in the page file stays where it is."""
        page, slot = self._set.victim(), self._set.take_slot()
        if page is None or slot is None:
            return
        frame = self._set.frame(page)
        assert frame is not None
        content = self._memory.read(frame)
        try:
            self._page_file.write_from(slot * PAGE_SIZE_BYTES, content)
        except DeviceError:
            self.failures += 1
            self._set.give_back(slot)
            return
        self._memory.move_out(page, frame, slot)
        self._set.went_out(page, Away(slot, blake3.blake3(content).digest()))
        self.page_outs += 1

    def _move_in(self, page: int) -> int:
        away = self._set.away(page)
        try:
            content = self._page_file.read(away.slot * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES)
        except DeviceError as failure:
            self._lose(page, STATUS_DEVICE_DATA_ERROR, f"cannot be read: {failure}")
        self.checks += 1
        if blake3.blake3(content).digest() != away.digest:
            self._lose(page, STATUS_CRC_ERROR, "is not what was written there")
        frame = self._set.take_frame()
        self._memory.move_in(page, frame, content)
        self._set.came_in(page, frame)
        self.page_ins += 1
        return frame

    def _lose(self, page: int, status: int, what: str) -> NoReturn:
        self.failures += 1
        processes = self._memory.processes
        address, slot = processes.address(page), self._set.away(page).slot
        raise InPageError(
            f"page {address:#x} of process {processes.process_id(page)}, block {slot} of the page file, {what}",
            (direct_address(processes.entry_address(page)), status, self._memory.entry(page), address),
        )


def page_of_touch(number: int, page_count: int) -> int:
    """The page that the n-th touch of a run is of: mostly one of a few, and which few changes from time to time."""
    draw = int.from_bytes(blake3.blake3(number.to_bytes(8, "little")).digest(length=8), "little")
    if number % COLD_TOUCHES == 0:
        return draw % page_count
    hot_count = max(1, page_count // HOT_SHARE)
    return (number // PHASE_TOUCHES * hot_count + draw % hot_count) % page_count
