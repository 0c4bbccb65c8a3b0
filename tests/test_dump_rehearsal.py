"""A rehearsal finds what would keep a dump from being written, and leaves no trace."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from dumpwriter.crash.rehearsal import rehearse
from tests.dumping import DumpBench
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Trace

if TYPE_CHECKING:
    from tests.machines import Machine
    from vdisk.layers.trace import Event


def test_what_was_written_is_taken_back() -> None:
    bench = DumpBench(300, pieces=4)
    bench.write()
    before = bytes(bench.disk.content)
    events: list[Event] = []
    rehearse(Mapped(Trace(bench.disk, events.append), bench.extents))
    assert bytes(bench.disk.content) == before
    assert any(event.content not in before for event in events if event.kind == "write")


class Deaf(Layer):
    """A disk that takes writes and forgets them."""

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        pass


class Broken(Layer):
    """A disk that cannot write."""

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        raise DeviceError("no")


@pytest.mark.parametrize("fault", [Deaf, Broken])
def test_a_disk_that_would_not_take_a_dump_is_found_out(fault: type[Layer]) -> None:
    bench = DumpBench(100)
    before = bytes(bench.disk.content)
    with pytest.raises(DeviceError):
        rehearse(Mapped(fault(bench.disk), bench.extents))
    assert bytes(bench.disk.content) == before


def test_a_running_machine_rehearses_under_load(machine: Machine) -> None:
    machine.create()
    machine.mount()
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            (machine.mountpoint / f"file{number % 7}").write_bytes(os.urandom(200_000))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            assert machine.facts("rehearse", machine.mountpoint) == {"passed": True, "reason": ""}
    finally:
        over.set()
        writer.join()
    assert machine.status()["state"] == "armed"
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"
    machine.check_filesystem()


def test_a_rehearsal_needs_an_armed_machine(machine: Machine) -> None:
    machine.create()
    machine.mount()
    os.kill(machine.status()["pid"], signal.SIGKILL)
    machine.wait_until_dumped()
    assert "not armed" in machine.run("rehearse", machine.mountpoint, check=1).stderr
