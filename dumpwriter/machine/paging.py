"""Paging while the machine runs: the processes work, and the pager with them, as the filesystem is used.

A request to the mount costs a count. The work is done in turns of their own, at most so much in each, so that paging
neither delays a request by more than a turn nor takes the processor from the filesystem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dumpwriter.machine.pager import Pager
from dumpwriter.machine.status import PAGING_REGISTERS
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.memory.source import MemorySource
    from dumpwriter.runtime import RuntimeFile
    from vdisk.blockdevice import BlockDevice

TOUCHES_PER_USE = 2
TOUCHES_PER_TURN = 64
TURN_SECONDS = 0.02


class Paging:
    """Runs a pager. `log` hears of what the page file did not take."""

    def __init__(self, pager: Pager, runtime: RuntimeFile, log: Callable[[str], object]) -> None:
        self._pager = pager
        self._runtime = runtime
        self._log = log
        self._touches_due = 0
        self._is_due = trio.Event()
        self._report()

    @classmethod
    def between(
        cls, source: MemorySource, page_file: BlockDevice, runtime: RuntimeFile, log: Callable[[str], object]
    ) -> Paging:
        """Raises `FormatError` where the memory has no processes, or none that a pager can work for."""
        memory = source.user_memory
        if memory is None:
            raise FormatError(f"no process of ours is in a memory of kind {source.kind}")
        return cls(Pager(memory, page_file), runtime, log)

    def note_use(self) -> None:
        self._touches_due += TOUCHES_PER_USE
        self._is_due.set()

    async def run(self) -> None:
        """Until cancelled. Raises `InPageError` where a page is lost: the machine cannot go on then."""
        while True:
            await self._is_due.wait()
            self._is_due = trio.Event()
            touches, self._touches_due = min(self._touches_due, TOUCHES_PER_TURN), 0
            failures = self._pager.failures
            try:
                self._pager.run_processes(touches)
            finally:
                self._report()
            if self._pager.failures != failures:
                self._log(f"paging: {self._pager.failures - failures} pages could not be written to the page file")
            await trio.sleep(TURN_SECONDS)

    def bring_all_back(self) -> None:
        """Empty the page file; nobody may use it from here on. Raises `InPageError`."""
        try:
            self._pager.bring_all_back()
        finally:
            self._report()

    def _report(self) -> None:
        for name, count in self._pager.counts()._asdict().items():
            self._runtime[PAGING_REGISTERS[name]] = count
