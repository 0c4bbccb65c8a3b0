"""Paging through real mounts: pages go out and come back as the filesystem is used, and a crash comes at any time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import MachineState, Register
from dumpwriter.memory.contents import user_page
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.process_reader import ProcessPage, read_processes
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECIPE = 'size = "128MiB"\nmemory = "16MiB"\n[region]\nkind = "pagefile"\n'
FULL = 'size = "48MiB"\nmemory = "16MiB"\n[region]\nkind = "pagefile"\n[disk]\nfill_percent = 100\n'


@contextlib.contextmanager
def in_use(mountpoint: Path) -> Iterator[None]:
    """Somebody uses the filesystem all the time; that it dies under them is no error of theirs."""
    end = threading.Event()
    directory = mountpoint / "work"  # it is gone with the mount: nothing is written beside it
    with contextlib.suppress(OSError):
        directory.mkdir(exist_ok=True)

    def use() -> None:
        for number in itertools.count():
            if end.is_set():
                return
            with contextlib.suppress(OSError):
                os.stat(mountpoint / f"there-is-no-{number}")
            if number % 500 == 0:
                with contextlib.suppress(OSError):
                    (directory / f"file-{number % 5}").write_bytes(bytes(10_000))

    user = threading.Thread(target=use)
    user.start()
    try:
        yield
    finally:
        end.set()
        user.join()


def wait_for_paging(machine: Machine, page_ins: int) -> None:
    """Return when so many pages have come back."""
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    wait_until(lambda: found[Register.PAGE_INS] >= page_ins, f"{page_ins} pages came back")
    found.close()


class Remains:
    """The memory of a machine, as its standby holds it, and its page file, as it lies in the image."""

    def __init__(self, machine: Machine, status: Any) -> None:
        self._image = machine.image
        self._extents = status["region"]["extents"]
        directory = f"/proc/{status['standbys'][0]['pid']}/fd"
        (found,) = (
            path
            for path in (os.path.join(directory, name) for name in os.listdir(directory))
            if os.readlink(path).startswith("/memfd:ghostdump-memory")
        )
        with open(found, "rb") as file:
            content = file.read()
        self.memory, self._notes = content[: status["memory_bytes"]], content[status["memory_bytes"] :]

    def pages(self) -> list[ProcessPage]:
        return read_processes(self.read, self._notes.decode(errors="replace"))

    def read(self, physical: int, size: int) -> bytes:
        return self.memory[physical : physical + size]

    def in_page_file(self, slot: int) -> bytes:
        (extent,) = (
            extent for extent in self._extents if 0 <= slot * 4096 - extent["logical_bytes"] < extent["length_bytes"]
        )
        with self._image.open("rb") as file:
            file.seek(extent["physical_bytes"] + slot * 4096 - extent["logical_bytes"])
            return file.read(4096)


def must_be_its_own(page: ProcessPage, content: bytes) -> int:
    """Whether the content is that of the page, however often it was used; how often that was."""
    uses = int.from_bytes(content[56:64], "little")
    assert content == user_page(page.process_id, page.address, uses), page
    return uses


def must_hold_its_processes(read: Callable[[int, int], bytes], pages: list[ProcessPage]) -> int:
    """Every page that is in memory is its own; the number of those that are not."""
    for page in pages:
        if page.frame is not None:
            must_be_its_own(page, read(page.frame * 4096, 4096))
    return sum(page.slot is not None for page in pages)


def vmcoreinfo_of(core: ElfCoreFile) -> str:
    (note,) = (note for note in core.notes() if note.name == b"VMCOREINFO")
    return note.content.decode()


def report_of(machine: Machine, number: int = 1) -> Any:
    return json.loads((machine.crash_directory(number) / "report.json").read_text())


def test_pages_go_out_and_come_back_as_the_filesystem_is_used(machine: Machine) -> None:
    machine.create(recipe=RECIPE)
    machine.mount()
    assert machine.status()["paging"]["page_outs"] == 0, "nobody used the filesystem yet"
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 300)
    paging = machine.status()["paging"]
    assert paging["reason"] is None
    assert (paging["pages_resident"], paging["pages_out"]) == (256, 256)
    assert paging["page_outs"] - paging["page_ins"] == paging["pages_out"]
    assert (paging["checks"], paging["failures"]) == (paging["page_ins"], 0)
    assert json.loads((machine.mountpoint / ".ghostdump" / "status").read_text())["paging"]["pages_out"] == 256
    assert "256 pages in memory, 256 out" in machine.run("status", machine.mountpoint).stdout

    status = machine.status()
    os.kill(status["pid"], signal.SIGSTOP)
    remains = Remains(machine, status)
    uses = 0
    for page in remains.pages():
        if page.frame is not None:
            uses += must_be_its_own(page, remains.read(page.frame * 4096, 4096))
        if page.slot is not None:
            uses += must_be_its_own(page, remains.in_page_file(page.slot))
    assert must_hold_its_processes(remains.read, remains.pages()) == 256
    assert uses > 1000
    os.kill(status["pid"], signal.SIGCONT)
    machine.unmount()
    machine.must_be_clean()


@pytest.mark.parametrize("killed", [False, True], ids=["bugcheck", "kill -9"])
def test_a_crash_while_paging_goes_on_loses_no_byte_of_memory(machine: Machine, killed: bool) -> None:
    machine.create(recipe=RECIPE)
    machine.mount()
    status = machine.status()
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 100)
        machine.signal_standbys(signal.SIGSTOP)
        if killed:
            os.kill(status["pid"], signal.SIGKILL)
            wait_until(lambda: not os.path.exists(f"/proc/{status['pid']}"), "the mount process is gone")
        else:
            crash = subprocess.Popen([COMMAND, "crash", machine.mountpoint], stdout=subprocess.DEVNULL)
            wait_until(lambda: state_of(machine) == MachineState.CRASHED, "the machine stands still")
        remains = Remains(machine, status)
        machine.signal_standbys(signal.SIGCONT)
        if not killed:
            assert crash.wait(60) == 0
        machine.wait_until_dumped()
    out = must_hold_its_processes(remains.read, remains.pages())
    assert out > 200

    machine.mount()
    assert report_of(machine)["verdict"] == "COMPLETE"
    core = ElfCoreFile((machine.crash_directory() / "vmcore").read_bytes())
    assert sum(load.in_file for load in core.loads) == len(remains.memory)
    for load in core.loads:
        assert core.bytes_of(load) == remains.read(load.physical, load.in_file)
    assert must_hold_its_processes(core.read, read_processes(core.read, vmcoreinfo_of(core))) == out
    if not killed:  # else the counts are up to a second old, or were not told yet
        told = json.loads((machine.crash_directory() / "secondary.machine.json").read_text())["paging"]
        assert told["checks"] == told["page_ins"]
        assert abs(told["pages_out"] - out) <= 2, "a page may have been on its way"
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 50)
    machine.unmount()
    machine.must_be_clean()


def state_of(machine: Machine) -> MachineState:
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    state = found.state
    found.close()
    return state


def test_a_page_that_was_changed_in_the_page_file_ends_in_a_bugcheck_and_a_dump(machine: Machine) -> None:
    machine.create(recipe=RECIPE)
    machine.mount()
    status = machine.status()
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 50)
        with machine.image.open("r+b") as file:
            for extent in status["region"]["extents"]:
                for offset in range(4096, extent["length_bytes"] - 4096, 4096):
                    file.seek(extent["physical_bytes"] + offset + 100)
                    file.write(b"not yours")
        machine.wait_until_dumped()
    crash = machine.status()["crash"]
    assert (crash["code"], crash["verdict"]) == (0x7A, "COMPLETE")
    assert "is not what was written there" in crash["text"]
    assert machine.status()["paging"]["failures"] == 1
    machine.mount()
    report = report_of(machine)
    assert (report["verdict"], report["bugcheck"]["code"]) == ("COMPLETE", 0x7A)
    assert report["bugcheck"]["parameters"][1] == 0xC000003F
    core = ElfCoreFile((machine.crash_directory() / "vmcore").read_bytes())
    must_hold_its_processes(core.read, read_processes(core.read, vmcoreinfo_of(core)))


def test_a_machine_that_left_no_dump_leaves_pages_that_are_taken_for_none(machine: Machine) -> None:
    machine.create(recipe=RECIPE)
    machine.mount()
    status = machine.status()
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 100)
        os.kill(status["pid"], signal.SIGSTOP)
        machine.signal_standbys(signal.SIGKILL)
        wait_until(lambda: not any(row["pid"] for row in machine.status()["standbys"]), "the standbys are dead")
        os.kill(status["pid"], signal.SIGKILL)
    machine.run("unmount", machine.mountpoint, check=None)
    machine.mount()
    assert machine.status()["last_recovery"]["verdict"] == "NONE"
    assert machine.status()["state"] == "armed"


def test_rehearsals_and_paging_go_on_beside_each_other(machine: Machine) -> None:
    machine.create(recipe=RECIPE)
    machine.mount()
    with in_use(machine.mountpoint):
        for round_ in range(1, 4):
            assert machine.facts("rehearse", machine.mountpoint)["passed"]
            wait_for_paging(machine, 40 * round_)
    assert machine.status()["paging"]["failures"] == 0
    assert machine.crash()["verdict"] == "COMPLETE"


def test_a_page_file_idles_beside_a_memory_of_somebody_elses(machine: Machine, tmp_path: Path) -> None:
    memory = tmp_path / "memory.raw"
    memory.write_bytes(os.urandom(16 << 20))
    machine.create(recipe=RECIPE)
    machine.mount("--memory-image", memory)
    assert "no process of ours" in machine.status()["paging"]["reason"]
    assert "idles" in machine.run("status", machine.mountpoint).stdout
    assert machine.crash()["verdict"] == "COMPLETE"


def test_paging_goes_on_where_the_disk_is_full(machine: Machine) -> None:
    machine.create(recipe=FULL)
    machine.mount()
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 100)
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


def test_pages_of_an_encrypted_disk_are_never_in_the_clear(machine: Machine, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    machine.create("--region", "pagefile", "--encrypt", "--key-file", key)
    machine.mount("--key-file", key)
    with in_use(machine.mountpoint):
        wait_for_paging(machine, 100)
    os.kill(machine.status()["pid"], signal.SIGSTOP)
    content = machine.image.read_bytes()
    os.kill(machine.status()["pid"], signal.SIGCONT)
    assert b"ghostdump process" not in content
    assert machine.crash()["verdict"] == "COMPLETE"
    assert b"ghostdump process" not in machine.image.read_bytes()
    machine.mount("--key-file", key)
    core = ElfCoreFile((machine.crash_directory() / "vmcore").read_bytes())
    assert must_hold_its_processes(core.read, read_processes(core.read, vmcoreinfo_of(core))) > 200


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_page_tables_that_are_true(machine: Machine) -> None:
    machine.create(recipe=RECIPE)
    moments = random.Random(7)
    for number in range(1, 21):
        machine.mount("--keep", "2")
        with in_use(machine.mountpoint):
            wait_for_paging(machine, moments.randrange(200))
            machine.kill()
        machine.mount("--keep", "2")
        core = ElfCoreFile((machine.crash_directory(number) / "vmcore").read_bytes())
        must_hold_its_processes(core.read, read_processes(core.read, vmcoreinfo_of(core)))
        machine.unmount()
        machine.must_be_clean()
