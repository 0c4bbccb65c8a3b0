"""A machine that crashes while it boots: at every stage it leaves what it can, and the next boot says where it died."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import SMALL_DUMP_RANK, MachineState
from tests.builders.elf_reader import ElfCoreFile
from tests.changes import changed_blocks
from tests.machines import COMMAND
from tests.mounting import wait_until
from tests.vmcores import run_reader
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, BootStage

if TYPE_CHECKING:
    from typing import Any

    from tests.machines import Machine

LEAVES_NOTHING = {BootStage.POWER_ON}
LEAVES_A_SMALL_DUMP = {BootStage.DRIVERS, BootStage.FILESYSTEM, BootStage.RECOVERY, BootStage.ARMING}
LEAVES_EVERYTHING = {BootStage.RUNNING}


def crash_at(machine: Machine, stage: BootStage) -> str:
    """What the mount command says of a machine that crashes there."""
    said = machine.mount("--crash-at", stage.label, check=1).stderr
    assert said.count("\n") == 1 and f"at boot stage {stage.label}" in said
    return said


def reports(machine: Machine) -> list[dict[str, Any]]:
    """Those of all crashes in the mounted disk, in their order."""
    directory = machine.mountpoint / "var" / "crash"
    if not directory.exists():
        return []
    numbers = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    return [json.loads((directory / str(number) / "report.json").read_text()) for number in numbers]


def test_every_stage_has_its_outcome_here() -> None:
    assert LEAVES_NOTHING | LEAVES_A_SMALL_DUMP | LEAVES_EVERYTHING | {BootStage.OFF} == set(BootStage)


@pytest.mark.parametrize("stage", sorted(LEAVES_A_SMALL_DUMP), ids=lambda stage: stage.label)
def test_a_crash_at_a_boot_stage_leaves_a_small_dump(machine: Machine, stage: BootStage) -> None:
    machine.create(size="64MiB")
    said = crash_at(machine, stage)
    assert "PARTIAL" in said
    assert machine.facts("inspect", machine.image)["last_run"] == {
        "end": "crash with a dump",
        "stage": stage.label,
        "reason": f"crash at boot stage {stage.label}, on request",
    }
    verified = machine.facts("verify", machine.image, check=1)
    assert (verified["verdict"], verified["kind"], verified["stage"]) == ("PARTIAL", "small", stage.label)

    machine.mount()
    status = machine.status()
    assert status["state"] == "armed"
    assert (status["last_run"]["end"], status["last_run"]["stage"]) == ("crash with a dump", stage.label)
    (report,) = reports(machine)
    assert (report["verdict"], report["kind"], report["stage"]) == ("PARTIAL", "small", stage.label)
    assert report["bugcheck"]["code"] == 0xE2
    machine.unmount()
    machine.must_be_clean()


def test_a_crash_before_the_drivers_leaves_no_dump_and_is_told(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    machine.unmount()
    (stage,) = LEAVES_NOTHING
    assert "left no dump: no driver was up" in crash_at(machine, stage)
    expected = {"end": "crash without a dump", "stage": "power-on"}
    assert machine.facts("inspect", machine.image)["last_run"].items() >= expected.items()
    recovered = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert recovered["verdict"] == "NONE" and recovered["last_run"].items() >= expected.items()

    assert "last run: crash without a dump at boot stage power-on" in machine.mount().stdout
    assert machine.status()["last_run"].items() >= expected.items()
    machine.unmount()
    machine.mount()
    assert machine.status()["last_run"]["end"] == "clean shutdown"


def test_a_crash_as_soon_as_it_runs_leaves_everything(machine: Machine) -> None:
    machine.create(size="64MiB")
    (stage,) = LEAVES_EVERYTHING
    assert "COMPLETE" in crash_at(machine, stage)
    machine.mount()
    (report,) = reports(machine)
    assert (report["verdict"], report["kind"], report["stage"]) == ("COMPLETE", "region", "running")


def test_a_small_dump_opens_in_others_tools(machine: Machine) -> None:
    machine.create(size="64MiB")
    crash_at(machine, BootStage.FILESYSTEM)
    machine.run("recover", machine.image, "--output", "out", check=1)
    vmcore = machine.directory / "out" / "1" / "vmcore"
    run_reader("makedumpfile", "--dump-dmesg", str(vmcore), "dmesg", cwd=machine.directory)
    log = (machine.directory / "dmesg").read_text()
    assert "machine simulated, 16 MiB of memory" in log
    assert "Kernel panic - not syncing: bugcheck 0x000000e2: crash at boot stage filesystem" in log
    registers = run_reader(
        "gdb", "-nx", "-batch", "-core", str(vmcore), "-ex", "info registers rip rdi", cwd=machine.directory
    )
    assert "0xffffffff80201000" in registers and "0xe2" in registers
    drgn = pytest.importorskip("drgn", reason="drgn is not installed")
    program = drgn.Program()
    program.set_core_dump(str(vmcore))
    assert program["UTS_RELEASE"].string_() == b"5.4.0-ghostdump"


def test_a_small_dump_changes_no_block_outside_the_boot_area(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    shutil.copytree("/usr/share/doc/bash", machine.mountpoint / "doc", symlinks=True)
    machine.unmount()
    before = machine.directory / "before.img"
    subprocess.run(["cp", "--sparse=always", machine.image, before], check=True)
    crash_at(machine, BootStage.DRIVERS)
    first = (machine.image.stat().st_size - BOOT_AREA_SIZE_BYTES) // 4096
    changed = changed_blocks(before, machine.image)
    assert changed and min(changed) >= first
    machine.must_be_clean()


def test_a_small_dump_has_the_memory_byte_for_byte(machine: Machine) -> None:
    memory = machine.directory / "memory.raw"
    memory.write_bytes(b"".join(page.to_bytes(8, "little") + os.urandom(4088) for page in range(4096)))
    machine.create(size="64MiB")
    machine.mount("--memory-image", memory, "--crash-at", "arming", check=1)
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert report["verdict"] == "PARTIAL" and report["pages_present"] > 200
    vmcore = ElfCoreFile((machine.directory / "out" / "1" / "vmcore").read_bytes())
    content = memory.read_bytes()
    for load in vmcore.loads:
        found = vmcore.content[load.offset : load.offset + load.in_file]
        assert found == content[load.physical : load.physical + load.in_file]


@pytest.fixture
def disarmed(machine: Machine) -> Machine:
    """A machine whose last dump nobody could take out."""
    machine.create(recipe='size = "64MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount()
    machine.crash()
    machine.mount()
    return machine


class SlowBoot:
    """A mount command under which each flush of the disk takes a while, and the machine that it starts."""

    def __init__(self, machine: Machine, delay: str = "300ms") -> None:
        inject = f"inject=fdatasync:delay_enter={delay}"
        slow = ["strace", "-f", "-qq", "-o", os.devnull, "-P", str(machine.image), "-e", inject]
        self.command: subprocess.Popen[str] = subprocess.Popen(
            [*slow, COMMAND, "mount", str(machine.image), str(machine.mountpoint)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._mountpoint = str(machine.mountpoint)

    def reaches(self, stage: BootStage) -> bool:
        found = runtime.find(self._mountpoint)
        if found is None:
            return False
        with contextlib.closing(found):
            return found.state == MachineState.BOOTING and found.boot_stage == stage

    def end(self) -> str:
        _, said = self.command.communicate(timeout=60)
        assert self.command.returncode == 1
        return said


def test_a_machine_that_is_still_booting_crashes_at_its_stage(machine: Machine) -> None:
    machine.create(size="64MiB")
    boot = SlowBoot(machine)
    wait_until(lambda: boot.reaches(BootStage.FILESYSTEM), "the filesystem is open")
    crash = machine.crash("--bugcheck", "0xD1", "--text", "too early", check=1)
    assert (crash["verdict"], crash["standby"]) == ("PARTIAL", SMALL_DUMP_RANK)
    verified = machine.facts("verify", machine.image, check=1)
    assert verified["cause"] == "bugcheck"
    assert verified["stage"] in ("filesystem", "recovery")  # it boots on until the order has come
    assert f"crashed at boot stage {verified['stage']} (0xd1 too early)" in boot.end()


def test_a_machine_that_crashes_before_anything_can_be_written_says_so(machine: Machine) -> None:
    machine.create(size="64MiB")
    boot = SlowBoot(machine, delay="1s")
    wait_until(lambda: boot.reaches(BootStage.DRIVERS), "the drivers are up, and their first write is on its way")
    crash = machine.crash("--bugcheck", "0xD1", check=1)
    assert (crash["verdict"], crash["reason"]) == ("NONE", "the machine was not armed: it had not come so far")
    assert "left no dump: the machine was not armed" in boot.end()
    assert machine.facts("inspect", machine.image)["last_run"]["end"] == "crash without a dump"


def pid_for_a_small_dump(machine: Machine) -> int:
    """Of the standby that would write it; 0 where there is none."""
    (standby,) = [found for found in machine.status()["standbys"] if found["rank"] == SMALL_DUMP_RANK]
    return int(standby["pid"] or 0)


def test_a_small_dump_is_promised_for_as_long_as_there_is_a_standby_for_it(disarmed: Machine) -> None:
    def is_another_there() -> bool:
        reason = disarmed.status()["reason"]
        return pid_for_a_small_dump(disarmed) not in (0, *ended) and reason.endswith("leaves a small dump")

    ended: list[int] = []
    for _ in range(4):  # three times another is started at once
        wait_until(is_another_there, "another standby is there")
        ended.append(pid_for_a_small_dump(disarmed))
        os.kill(ended[-1], signal.SIGKILL)
    wait_until(lambda: "the next one is at" in disarmed.status()["reason"], "the machine says that it waits")
    assert "small dump's standby: it died" in disarmed.status()["reason"]
    assert "a crash leaves" not in disarmed.status()["reason"]


def test_a_crash_of_a_disarmed_machine_tells_of_itself_alone(disarmed: Machine) -> None:
    """A cause that has no target is refused, and a dump of an earlier crash is not told as this one's."""
    for cause in (("corrupted-clones",), ("bad-sectors",), ("power-cut", "--at", "50")):
        said = disarmed.run("crash", disarmed.mountpoint, "--cause", *cause, check=1).stderr
        assert "the machine is disarmed, not armed" in said and said.count("\n") == 1
    assert disarmed.status()["state"] == "disarmed"
    crash = disarmed.crash("--cause", "power-cut", check=1)
    assert (crash["verdict"], crash["pages_present"]) == ("NONE", 0)
    assert disarmed.facts("verify", disarmed.image)["verdict"] == "COMPLETE"


def test_another_standby_writes_the_small_dump_where_the_first_died(disarmed: Machine) -> None:
    ended = pid_for_a_small_dump(disarmed)
    os.kill(ended, signal.SIGKILL)
    wait_until(lambda: pid_for_a_small_dump(disarmed) not in (0, ended), "another standby is there")
    assert disarmed.crash(check=1)["verdict"] == "PARTIAL"


def test_a_machine_that_cannot_be_armed_leaves_a_small_dump(disarmed: Machine) -> None:
    machine = disarmed
    status = machine.status()
    assert status["state"] == "disarmed" and status["reason"].endswith("a crash leaves a small dump")
    crash = machine.crash("--bugcheck", "0xD1", check=1)
    assert (crash["verdict"], crash["standby"]) == ("PARTIAL", 2)
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["kind"], report["bugcheck"]["code"], report["stage"]) == ("small", 0xD1, "running")
    (earlier,) = report["earlier"]
    assert (earlier["verdict"], earlier["kind"]) == ("COMPLETE", "region")
