"""The standbys of a machine: started when it is armed, replaced when they die, called when the machine crashes."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from dumpwriter.crash import controlblock
from dumpwriter.formats.runtime import REASON_TEXT, REGION_RANKS, Call, MachineState, Register
from dumpwriter.machine.pace import Pace
from dumpwriter.machine.standby import READY_SECONDS, REHEARSAL_SECONDS, Standby
from dumpwriter.recovery.report import iso_time
from dumpwriter.runtime import by_rank
from vdisk.errors import ArmingError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.machine.standby import Hardware

REARMINGS_MAX = 16  # the latest, so that what the machine says of itself does not grow
STAND_STILL_SECONDS = 15.0
REHEARSALS_SECONDS = len(REGION_RANKS) * REHEARSAL_SECONDS  # one after the other


class Rearming(NamedTuple):
    """A standby was lost: when, which, and why."""

    time: str | None
    rank: int
    reason: str


class Standbys:
    """Who writes the dump. Nothing here may wait for long: the machine stands still meanwhile."""

    def __init__(self, hardware: Hardware, block: ControlBlock) -> None:
        """Start the standbys and wait until they are ready. Raises `ArmingError` where none can promise a dump."""
        self._hardware = hardware
        self._control_block = controlblock.seal(block)
        self._ready: dict[int, Standby] = {}
        self._starting: list[Standby] = []
        self._lost: dict[int, str] = {}  # why a rank has no standby
        self._alarm: str | None = None  # what besides them is not as it was at arming
        self._is_revoked = False
        self.rearmings: deque[Rearming] = deque(maxlen=REARMINGS_MAX)
        try:
            self._start_all()
        except BaseException:
            self.dismiss()
            raise

    def _start_all(self) -> None:
        """They load side by side, and rehearse one after the other: there is one disk."""
        for rank in REGION_RANKS:
            self._start(rank)
        self._each_starting(self._load)
        self._agree()
        self._each_starting(self._admit)
        if not self._ready:
            raise ArmingError(self._lost[0])

    def _each_starting(self, step: Callable[[Standby], None]) -> None:
        for standby in list(self._starting):
            try:
                step(standby)
            except ArmingError as refusal:
                self._lost[standby.rank] = str(refusal)

    def _agree(self) -> None:
        """Where they have not loaded the same code nobody knows which of them is right. Raises `ArmingError`."""
        loaded = {standby.code_digest for standby in self._starting}
        if len(loaded) > 1:
            raise ArmingError("the standbys have not loaded the same code: unmount and mount again")
        self._code_digest = next(iter(loaded), "")

    def _start(self, rank: int) -> Standby:
        standby = Standby(rank, self._control_block, self._hardware)
        self._starting.append(standby)
        return standby

    def _load(self, standby: Standby, wait_seconds: float = READY_SECONDS) -> None:
        """Wait until it is loaded. Raises `ArmingError`; it is gone then."""
        with self._dismissed_where_it_fails(standby):
            standby.wait_until_loaded(wait_seconds)

    def _admit(self, standby: Standby) -> None:
        """Count on a standby that is loaded once it has rehearsed. Raises `ArmingError`; it is gone then."""
        with self._dismissed_where_it_fails(standby):
            if standby.code_digest != self._code_digest:
                raise ArmingError("the code that it has loaded is not what the machine was armed with")
            standby.let_rehearse()
        self._starting.remove(standby)
        self._ready[standby.rank] = standby
        self._lost.pop(standby.rank, None)

    @contextlib.contextmanager
    def _dismissed_where_it_fails(self, standby: Standby) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._starting.remove(standby)
            standby.dismiss()
            raise

    @property
    def condition(self) -> tuple[MachineState, str | None]:
        """What the machine may say of itself, and why it is not better."""
        if self._is_revoked or not self._ready:
            return MachineState.DISARMED, self._alarm or by_rank(self._lost)
        if self._lost or self._alarm:
            return MachineState.DEGRADED, self._alarm or by_rank(self._lost)
        return MachineState.ARMED, None

    def raise_alarm(self, alarm: str | None) -> bool:
        """Degrade the machine for as long as something is not as it was at arming; True where that is news."""
        is_news, self._alarm = alarm != self._alarm, alarm
        return is_news

    def revoke(self, reason: str) -> None:
        """A dump must not be written any more: end the standbys for good."""
        self._alarm, self._is_revoked = reason, True
        for standby in (*self._ready.values(), *self._starting):
            standby.kill()

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The clones' rows of the module table."""
        return [module for standby in self._in_order() for module in standby.modules()]

    def describe(self) -> list[dict[str, Any]]:
        """What the standbys said of themselves."""
        return [standby.describe() for standby in self._in_order()]

    def _in_order(self) -> list[Standby]:
        return [self._ready[rank] for rank in sorted(self._ready)]

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Replace each standby that ends: a machine that cannot dump must not say that it is armed.

        `on_change` is called whenever the condition is another.
        """
        async with trio.open_nursery() as nursery:
            for rank in REGION_RANKS:
                nursery.start_soon(self._keep_one, rank, on_change)

    async def _keep_one(self, rank: int, on_change: Callable[[], None]) -> None:
        pace = Pace()
        while not self._is_revoked:
            if rank in self._ready:
                await trio.lowlevel.wait_readable(self._ready[rank].pidfd)
                self._lose(rank)
            elif pause_seconds := pace.pause_seconds:
                self._lost[rank] += f"; {pace.explain()}"
                on_change()
                await trio.sleep(pause_seconds)
                continue
            else:
                pace.note_start()
                await self._replace(rank)
            on_change()

    def _lose(self, rank: int) -> None:
        standby = self._ready.pop(rank)
        self._lost[rank] = standby.words or "it died"
        self.rearmings.append(Rearming(iso_time(time.time_ns()), rank, self._lost[rank]))
        standby.dismiss()

    async def _replace(self, rank: int) -> None:
        """The machine goes on while the new standby loads, and stands still while it rehearses."""
        try:
            standby = self._start(rank)
            with trio.move_on_after(READY_SECONDS):
                await trio.lowlevel.wait_readable(standby.output)
            self._load(standby, wait_seconds=0)  # it had its time, while the machine went on
            self._admit(standby)
        except (ArmingError, ImageError) as refusal:
            self._lost[rank] = str(refusal)

    def rehearse(self) -> None:
        """Stand still while the clones have the disk, in turn: each takes the controller over, as it would at a crash.

        What they found stands in the runtime file.
        """
        runtime = self._hardware.runtime
        found = {standby.rank: standby.rehearse() for standby in self._in_order()}
        runtime.set_text(REASON_TEXT, by_rank(found))
        runtime[Register.REHEARSALS] += 1

    def call(self) -> None:
        """The machine crashes: wake the standbys, and stand still until one ends this process or a while has passed."""
        for standby in self._ready.values():
            os.eventfd_write(standby.wake, Call.CRASH)
        # Not process.wait(): the code that a signal interrupts may be in it, and its lock is not reentrant.
        deadline = time.monotonic() + STAND_STILL_SECONDS
        for standby in self._ready.values():
            select.select([standby.pidfd], [], [], max(0.0, deadline - time.monotonic()))

    def dismiss(self) -> None:
        """End the standbys without a dump."""
        standbys = [*self._ready.values(), *self._starting]
        self._ready, self._starting = {}, []
        for standby in standbys:
            standby.dismiss()
        os.close(self._control_block)
