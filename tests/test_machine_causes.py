"""Every hostile cause of the table, carried out for real: the dump that is promised, and a disk that boots again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import runtime
from dumpwriter.crash import dump
from dumpwriter.crash.dump import Progress
from dumpwriter.crash.protection import DEFAULT_PARITY_PERCENT
from dumpwriter.formats.runtime import FaultState, Register
from dumpwriter.machine.causes import CAUSES, Cause
from dumpwriter.machine.corruption import CORRUPTIONS
from dumpwriter.machine.faults import ACTS, HARDWARE
from dumpwriter.machine.memorylimit import INTERFACES
from dumpwriter.recovery.scan import recover
from dumpwriter.verdict import Verdict
from tests.builders.elf_reader import ElfCoreFile
from tests.dumping import DumpBench, Pages
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until
from vdisk.controller import CACHE_SIZE_BYTES
from vdisk.layers.mapped import Mapped
from vdisk.layers.volatile_cache import VolatileCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = 4096
CRASHED_HERE = [cause for cause in CAUSES if not cause.instead]
# What the result has to say; one line for each cause, so that a new one is thought of here too.
SAYS = {
    "bugcheck": "",
    "null-dereference": "",
    "deadlock": "",
    "stack-smash": "",
    "oom-kill": "",
    "kill": "",
    "corrupted-clone": "",
    "corrupted-extents": "",
    "corrupted-control-block": "",
    "corrupted-clones": "digest does not hold",
    "controller-busy": "",
    "controller-wrong-mode": "",
    "controller-garbage": "",
    "controller-wedged": "",
    "controller-slow": "",
    "controller-dead": "controller: power cycle: not ready after 2.0 s",
    "lying-flush": "",
    "stubborn-cache": "writes that it had acknowledged",
    "bad-sectors": "",
    "power-cut": "the machine stopped without a dump",
}
# And what the report of the next boot names as the cause.
BUGCHECK, WATCHDOG, DIED = "bugcheck", "watchdog", "machine died"
RECORDED = {
    "deadlock": (WATCHDOG, "deadlock: the machine did not answer"),
    "stack-smash": (DIED, "died without a bugcheck"),
    "oom-kill": (DIED, "died without a bugcheck"),
    "kill": (DIED, "died without a bugcheck"),
    "null-dereference": (BUGCHECK, "storahci.py, line"),
    "controller-busy": (WATCHDOG, "controller-busy: the machine did not answer"),
    "controller-wrong-mode": (BUGCHECK, "controller in mode LEGACY takes no commands"),
    "controller-garbage": (BUGCHECK, "controller in unknown mode 0x5a5a5a5a takes no commands"),
    "controller-wedged": (BUGCHECK, "controller in mode WEDGED takes no commands"),
}


class Disk:
    """One machine that is crashed again and again; what it holds is checked after each crash."""

    def __init__(self, directory: Path) -> None:
        self.machine = Machine(directory)
        self.memory = directory / "memory.raw"
        self.memory.write_bytes(os.urandom(PAGES * 4096))
        self.synced: dict[str, bytes] = {}
        self.machine.create(size="128MiB", memory="16MiB")
        self.mount()

    def mount(self) -> Any:
        return self.machine.facts(
            "mount", self.machine.image, self.machine.mountpoint, "--memory-image", self.memory, "--keep", "2"
        )

    def sync_a_file(self, name: str) -> None:
        self.synced[name] = os.urandom(30_000)
        with (self.machine.mountpoint / name).open("wb") as file:
            file.write(self.synced[name])
            file.flush()
            os.fsync(file.fileno())

    def must_be_clean_after_the_replay(self) -> None:
        """By e2fsck alone, on a copy: the image itself is for the next boot."""
        copy = self.machine.directory / "copy.img"
        subprocess.run(["cp", "--sparse=always", self.machine.image, copy], check=True)
        replayed = subprocess.run(["e2fsck", "-p", copy], check=False, capture_output=True, text=True)
        assert replayed.returncode in (0, 1), replayed.stdout
        checked = subprocess.run(["e2fsck", "-fn", copy], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        copy.unlink()

    def must_have_what_was_synced(self) -> None:
        for name, content in self.synced.items():
            assert (self.machine.mountpoint / name).read_bytes() == content

    def exact_pages(self, path: str) -> int:
        """How many pages the vmcore has; each has to be the memory's."""
        directory = self.machine.mountpoint / path.lstrip("/")
        found, content = ElfCoreFile((directory / "vmcore").read_bytes()), self.memory.read_bytes()
        for load in found.loads:
            piece = found.content[load.offset : load.offset + load.in_file]
            assert piece == content[load.physical : load.physical + load.in_file]
        return sum(load.in_file for load in found.loads) // 4096

    def must_recover(self, verdict: Verdict, pages: int) -> Any:
        """Boot again: the verdict, the pages of the vmcore, what was synced, and a machine that is armed."""
        facts = self.mount()
        report = facts["last_recovery"]
        assert (report["verdict"], report["pages_present"]) == (verdict, pages)
        if pages:
            assert self.exact_pages(report["path"]) == pages
        self.must_have_what_was_synced()
        assert facts["state"] == "armed"
        return report


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An armed machine."""
    made = Disk(tmp_path)
    yield made
    made.machine.end()


@pytest.mark.parametrize(
    "causes", [CRASHED_HERE[first::4] for first in range(4)], ids=lambda causes: f"{causes[0].name} and others"
)
def test_each_cause_leaves_what_the_table_promises(disk: Disk, causes: list[Cause]) -> None:
    """One after the other on one machine: it boots again after each."""
    for cause in causes:
        must_leave_what_is_promised(disk, cause)


def must_leave_what_is_promised(disk: Disk, cause: Cause) -> None:
    disk.sync_a_file(cause.name)
    facts = disk.machine.crash("--cause", cause.name, check=0 if cause.verdict == "COMPLETE" else 1)
    assert (facts["cause"], facts["verdict"]) == (cause.name, cause.verdict)
    assert SAYS[cause.name] in facts["reason"]
    assert bool(SAYS[cause.name]) == (cause.verdict != "COMPLETE")
    assert facts["standby"] == (None if not facts["bytes_written"] else 1 if cause.name in CORRUPTIONS else 0)
    disk.must_be_clean_after_the_replay()
    pages = facts["pages_present"]
    assert {"COMPLETE": pages == PAGES, "PARTIAL": 0 < pages < PAGES, "NONE": pages == 0}[cause.verdict]
    report = disk.must_recover(cause.verdict, pages)
    assert (report["frames_moved"] or 0) == 3 * (cause.name == "bad-sectors")
    if cause.verdict == "COMPLETE":
        kind, text = RECORDED.get(cause.name, (BUGCHECK, ""))
        assert report["cause"] == kind
        assert text in report["bugcheck"]["text"]


def test_a_lost_cache_costs_pages_whatever_request_came_last() -> None:
    """A set's parity goes out behind its last request, which may be any: were it all that is held, nothing was lost."""
    bench = DumpBench(5 * PAGES // 4, pieces=1, classes=1, parity_percent=DEFAULT_PARITY_PERCENT)
    job, progress = bench.job(), Progress()
    cache = VolatileCache(job.region, CACHE_SIZE_BYTES)
    job = job._replace(region=cache)
    dump.begin(job, progress)
    *others, last = job.plan.requests()
    for request in (last, *others):
        dump.write_request(job, request, memoryview(bytearray(dump.REQUEST_BUFFER_SIZE_BYTES)), progress)
    cache.drop()
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert (found.verdict, found.frames_damaged, found.pages_present < PAGES) == (Verdict.PARTIAL, 0, True)


def test_the_power_goes_in_the_middle_of_the_dump(disk: Disk) -> None:
    for percent in (0, 30, 75):  # the last tenth of it is parity
        facts = disk.machine.crash("--cause", "power-cut", "--at", percent, check=1)
        assert facts["verdict"] == ("PARTIAL" if percent else "NONE")
        assert abs(facts["pages_present"] - PAGES * percent // 100) < 6 * 64 * 8  # four requests were in flight
        said = disk.machine.run("inspect", disk.machine.image).stdout
        counts = f"not written to its end: ghostdump verify {disk.machine.image} counts its pages"
        assert (counts in said) == (percent > 0)
        disk.must_be_clean_after_the_replay()
        disk.must_recover(facts["verdict"], facts["pages_present"])


def test_the_power_goes_behind_a_dump_with_secondary_data(disk: Disk) -> None:
    """All of it counts, not the pages alone."""
    blob = disk.machine.directory / "blob"
    blob.write_bytes(os.urandom(900_000))
    disk.machine.run("register", disk.machine.mountpoint, "blob", blob)
    facts = disk.machine.crash("--cause", "power-cut", "--at", "100")
    assert (facts["verdict"], facts["pages_present"]) == ("COMPLETE", PAGES)


def test_every_cause_has_an_act_and_every_act_a_cause() -> None:
    assert [*ACTS, *HARDWARE] == [*dict.fromkeys([*ACTS, *HARDWARE])]
    assert {cause.name for cause in CRASHED_HERE} == {*ACTS, *HARDWARE} == set(SAYS) > set(CORRUPTIONS)


def test_the_list_explains_each_cause(machine: Machine) -> None:
    listed = machine.facts("crash", "--list")
    assert [row["name"] for row in listed] == [cause.name for cause in CAUSES]
    text = machine.run("crash", "--list").stdout
    assert all(cause.name in text and cause.happens in text and cause.leaves in text for cause in CAUSES)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cause", "nonsense"),
        ("--cause", "boot-stage"),
        ("--at", "50"),
        ("--cause", "power-cut", "--at", "101"),
        ("--cause", "kill", "--bugcheck", "0xD1"),
        ("--write", "0"),
        ("--write", "99999999999999999999999"),
        ("--parameter", "1", "--cause", "deadlock"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_bad_usage(machine: Machine, arguments: tuple[str, ...]) -> None:
    said = machine.run("crash", machine.mountpoint, *arguments, check=2)
    assert said.stderr.count("\n") == 1


def test_a_crash_of_nothing_is_bad_usage(machine: Machine) -> None:
    assert "--list" in machine.run("crash", check=2).stderr


def test_the_stack_is_smashed_for_real(machine: Machine) -> None:
    machine.create()
    with subprocess.Popen(
        [COMMAND, "mount", machine.image, machine.mountpoint, "--foreground"],
        stderr=subprocess.PIPE,
        text=True,
        env=machine.environment,
    ) as mounted:
        assert mounted.stderr is not None
        assert any("until Ctrl-C" in line for line in mounted.stderr)
        machine.crash("--cause", "stack-smash")
        assert mounted.wait(timeout=20) == 256 - 11  # its machine ended by SIGSEGV


def test_the_kernel_kills_for_want_of_memory(machine: Machine) -> None:
    if not any(os.access(interface.root, os.W_OK) and "oom" in interface.events for interface in INTERFACES):
        pytest.skip("no memory cgroup can be made here")
    machine.create()
    machine.mount()
    pid = machine.status()["pid"]
    assert "the kernel's OOM killer ended it" in machine.crash("--cause", "oom-kill")["done"]
    assert not any(os.path.exists(f"{interface.root}/ghostdump-{pid}") for interface in INTERFACES)


def test_a_fault_at_a_write_waits_for_it(disk: Disk) -> None:
    crash = subprocess.Popen(
        [COMMAND, "crash", disk.machine.mountpoint, "--cause", "kill", "--write", "3", "--json"],
        stdout=subprocess.PIPE,
        env=disk.machine.environment,
    )
    root = os.open(disk.machine.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        number = 0
        while crash.poll() is None:
            number += 1
            try:
                os.close(os.open(f"file{number}", os.O_CREAT | os.O_WRONLY, dir_fd=root))
                os.fsync(root)
            except OSError:
                break
    finally:
        os.close(root)
    output, _ = crash.communicate(timeout=60)
    assert json.loads(output)["verdict"] == "COMPLETE"
    disk.must_be_clean_after_the_replay()
    disk.must_recover(Verdict.COMPLETE, PAGES)


def test_a_shutdown_before_the_write_is_told(machine: Machine) -> None:
    machine.create()
    machine.mount()
    crash = subprocess.Popen(
        [COMMAND, "crash", machine.mountpoint, "--write", "100000"], stderr=subprocess.PIPE, env=machine.environment
    )
    wait_until(lambda: fault_is_waiting(machine), "the trap is set")
    machine.unmount()
    _, said = crash.communicate(timeout=60)
    assert (crash.returncode, b"shut down before" in said) == (1, True)


def test_who_waits_no_longer_for_the_write_is_told_that_it_comes(machine: Machine) -> None:
    machine.create()
    machine.mount()
    crash = subprocess.Popen(
        [COMMAND, "crash", machine.mountpoint, "--write", "100000"], stderr=subprocess.PIPE, env=machine.environment
    )
    wait_until(lambda: fault_is_waiting(machine), "the trap is set")
    crash.send_signal(signal.SIGINT)
    _, said = crash.communicate(timeout=60)
    assert (crash.returncode, b"still crashes when it comes to that write" in said) == (1, True)
    assert fault_is_waiting(machine)


def fault_is_waiting(machine: Machine) -> bool:
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    state = found[Register.FAULT_STATE]
    found.close()
    return state == FaultState.WAITING
