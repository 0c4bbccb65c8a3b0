"""Hibernation by real processes: the same memory, byte for byte, once; or a cold boot that says why."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import HIBERNATOR_RANK, MachineState, Register, StandbyRegister
from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until
from tests.test_machine_user import open_path as open_path
from tests.test_machine_user import users_machine as users_machine
from vdisk.bootarea import BootArea, RegionState
from vdisk.extent import Run
from vdisk.imagefile import ImageFile
from vdisk.registers import Power, Registers
from vdisk.registers import Register as HardwareRegister

MIB = 1 << 20
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
LOG_PAGES = range(0x301, 0x350)  # where the simulated kernel keeps its log


def memory_of(machine: Machine) -> bytes:
    """The machine's whole memory file, RAM and notes area, by a descriptor of its process."""
    pid = machine.status()["pid"]
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if os.readlink(path).startswith("/memfd:ghostdump-memory"):
            with open(path, "rb") as file:
                return file.read()
    raise AssertionError("the machine has no memory")


def log_of(machine: Machine, vmcore: Path) -> str:
    out = machine.directory / "dmesg.txt"
    subprocess.run(["makedumpfile", "-f", "--dump-dmesg", vmcore, out], check=True, capture_output=True)
    return out.read_text()


def set_region_state(image: Path, state: RegionState) -> None:
    """As the power leaves it that goes right after the boot record was written."""
    with image.open("r+b") as file:
        area = BootArea(ImageFile(file.fileno()))
        area.write(area.read()._replace(region_state=state))


def damage_pages(machine: Machine, *slots: int) -> None:
    """One byte in each of these frames of pages."""
    extents = machine.facts("extents", machine.image)
    assert len(extents) == 1
    with machine.image.open("r+b") as file:
        for slot in slots:
            file.seek(extents[0]["physical_bytes"] + 4096 + slot * 65 * 4096 + 5000)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x10]))


@pytest.fixture
def memory_image(tmp_path: Path) -> Path:
    path = tmp_path / "memory.raw"
    source = random.Random(3)
    path.write_bytes(b"".join(bytes(MIB) if number % 3 == 1 else source.randbytes(MIB) for number in range(24)))
    return path


def test_the_same_memory_goes_on_twice_in_a_row(machine: Machine, memory_image: Path) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    before = memory_of(machine)
    assert before[: 24 * MIB] == memory_image.read_bytes()
    for turn in (1, 2):
        (machine.mountpoint / f"file{turn}").write_text(f"written before {turn}")
        facts = machine.hibernate()
        assert facts["hibernated"] is True
        assert (facts["verdict"], facts["pages_present"]) == ("COMPLETE", 24 * 256)
        assert not os.path.ismount(machine.mountpoint)
        assert machine.status()["state"] == "hibernated"
        assert {module["name"] for module in machine.facts("drivers", machine.mountpoint)} == {
            "hiber_storahci",
            "hiber_diskdump",
        }
        machine.must_be_clean()
        said = machine.mount().stdout
        assert "resumed: 24 MiB of memory in " in said
        status = machine.status()
        assert (status["state"], status["resumed"], status["machine"]) == ("armed", True, "image")
        assert (status["resume"]["generation"], status["resume"]["bytes"]) == (2 * turn, 24 * MIB)
        assert memory_of(machine) == before
        assert (machine.mountpoint / f"file{turn}").read_text() == f"written before {turn}"
    machine.unmount()
    machine.mount()
    assert machine.status()["resumed"] is False
    machine.unmount()
    machine.must_be_clean()


def test_a_simulated_machine_goes_on_with_its_log(machine: Machine) -> None:
    machine.create(memory="32MiB")
    machine.mount()
    (machine.mountpoint / "before-the-night").write_text("x")
    (machine.mountpoint / "before-the-night").read_text()
    note = machine.directory / "note.txt"
    note.write_text("beside memory")
    machine.run("register", machine.mountpoint, "note.txt", note)
    machine.hibernate()
    report = machine.facts("recover", machine.image, "--output", "asleep")
    assert (report["cause"], report["hibernated"]) == ("hibernation", True)
    asleep = ElfCoreFile((machine.directory / "asleep" / "1" / "vmcore").read_bytes())
    machine.mount()
    assert machine.status()["resumed"] is True, "a copy of the memory is no reason to give it up"
    awake = memory_of(machine)
    for load in asleep.loads:
        for start in range(0, load.in_file, 4096):
            if (load.physical + start) // 4096 not in LOG_PAGES:
                page = asleep.content[load.offset + start : load.offset + start + 4096]
                assert page == awake[load.physical + start : load.physical + start + 4096]
    assert "note.txt" in [blob["name"] for blob in machine.status()["secondary"]]
    (machine.mountpoint / "after-the-night").write_text("x")
    assert machine.crash()["verdict"] == "COMPLETE"
    machine.mount()
    log = log_of(machine, machine.crash_directory() / "vmcore")
    assert log.index("before-the-night") < log.index("resumed: ") < log.index("after-the-night")
    times = [float(line[1:].split("]")[0]) for line in log.splitlines()]
    assert times == sorted(times)


def test_a_damaged_memory_is_a_cold_boot_that_says_so(machine: Machine, memory_image: Path) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    (machine.mountpoint / "kept").write_text("kept")
    machine.hibernate()
    damage_pages(machine, 3, 11)  # of one group: parity gives neither back
    said = machine.run("verify", machine.image, check=1).stdout
    assert said.startswith("hibernated machine: PARTIAL")
    assert machine.facts("inspect", machine.image)["last_run"]["end"] == "hibernation"
    said = machine.mount().stdout
    assert "cold boot" in said and "damaged" in said and "6018 of 6144 pages" in said
    status = machine.status()
    assert (status["state"], status["resumed"], status["machine"]) == ("armed", False, "simulated")
    assert "damaged" in status["resume"]["reason"]
    assert (machine.mountpoint / "kept").read_text() == "kept"
    report = json.loads((machine.crash_directory() / "report.json").read_text())
    assert (report["verdict"], report["cause"], report["pages_present"]) == ("PARTIAL", "hibernation", 6018)
    content = memory_image.read_bytes()
    vmcore = ElfCoreFile((machine.crash_directory() / "vmcore").read_bytes())
    for load in vmcore.loads:
        assert (
            vmcore.content[load.offset : load.offset + load.in_file]
            == content[load.physical : load.physical + load.in_file]
        )
    machine.unmount()
    machine.mount()
    assert machine.status()["resume"] is None


def cold_boot_after(machine: Machine, state: RegionState) -> Any:
    """The status of the machine that comes after a hibernation whose mark says that."""
    machine.hibernate()
    set_region_state(machine.image, state)
    machine.mount()
    status = machine.status()
    assert (status["state"], status["resumed"]) == ("armed", False), state.name
    assert (machine.mountpoint / "kept").read_text() == "kept", state.name
    return status


def test_a_power_cut_around_the_mark_is_a_cold_boot(machine: Machine) -> None:
    machine.create()
    machine.mount()
    (machine.mountpoint / "kept").write_text("kept")
    status = cold_boot_after(machine, RegionState.RESUMED)  # cut as soon as the resumed machine may go on
    assert status["resume"] is None
    assert status["last_recovery"]["reason"] == "the hibernated machine was resumed"
    assert not (machine.mountpoint / "var").exists()
    status = cold_boot_after(machine, RegionState.HIBERNATING)  # cut before its memory was called whole
    assert "did not finish" in status["resume"]["reason"]
    assert status["last_run"]["end"] == "hibernation that did not finish"
    assert status["last_recovery"]["cause"] == "hibernation"
    assert machine.crash_directory().exists()


def test_a_machine_that_did_not_arm_or_is_in_use_refuses(machine: Machine) -> None:
    machine.create()
    machine.run("hibernate", machine.mountpoint, check=1)
    machine.mount()
    with subprocess.Popen(["sleep", "100"], cwd=machine.mountpoint) as user:
        try:
            said = machine.run("hibernate", machine.mountpoint, check=1).stderr
            assert "does not hibernate: a program still uses the mount" in said
        finally:
            user.kill()
    status = machine.status()
    assert status["state"] == "armed"
    (machine.mountpoint / "runs-on").write_text("yes")
    assert machine.crash()["verdict"] == "COMPLETE"
    said = machine.run("hibernate", machine.mountpoint, check=1).stderr
    assert "not armed" in said


def test_a_region_that_may_not_hold_all_of_memory_refuses(machine: Machine) -> None:
    machine.create(size="64MiB", memory="16MiB")
    image = machine.directory / "large.raw"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    machine.mount("--memory-image", image)
    assert machine.status()["warning"]
    assert "the region has" in machine.run("hibernate", machine.mountpoint, check=1).stderr
    assert machine.status()["state"] == "armed"


def test_another_memory_or_a_cold_boot_on_request(machine: Machine, memory_image: Path) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    machine.hibernate()
    assert "holds a hibernated machine" in machine.mount("--memory-image", memory_image, check=2).stderr
    assert machine.facts("inspect", machine.image)["region_state"] == "hibernated"
    machine.mount("--memory-image", memory_image, "--discard-dump")
    status = machine.status()
    assert (status["state"], status["resumed"], status["machine"]) == ("armed", False, "image")
    assert status["last_recovery"]["reason"] == "the hibernated machine was given up on request"


def test_others_may_have_mounted_the_disk_meanwhile(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("a loop mount needs root")
    machine.create()
    theirs = machine.directory / "kernel"
    theirs.mkdir()
    for overwritten in (False, True):
        machine.mount()
        machine.hibernate()
        subprocess.run(["mount", "-o", "loop", machine.image, theirs], check=True)
        try:
            (theirs / "theirs").write_bytes(bytes(30 * MIB))
            if overwritten:
                os.unlink(theirs / "dump.bin")
                with pytest.raises(OSError, match="No space left"):
                    (theirs / "filler").write_bytes(b"\xff" * 128 * MIB)
                os.truncate(theirs / "theirs", 5)
        finally:
            subprocess.run(["umount", theirs], check=True)
        machine.mount()
        status = machine.status()
        assert (status["state"], status["resumed"]) == ("armed", not overwritten)
        assert (machine.mountpoint / "theirs").stat().st_size == (5 if overwritten else 30 * MIB)
        if overwritten:
            assert set((machine.mountpoint / "filler").read_bytes()) == {0xFF}
        machine.unmount()
        machine.must_be_clean()


def test_a_user_without_root_hibernates_too(users_machine: Machine) -> None:
    users_machine.create()
    users_machine.mount()
    assert users_machine.hibernate()["hibernated"] is True
    users_machine.mount()
    assert users_machine.status()["resumed"] is True


def background(machine: Machine, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)], cwd=machine.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=60)
    assert b"Traceback" not in said


def must_go_on_or_say_why(machine: Machine, content: bytes, region_state: str) -> bool:
    """The next mount after whatever happened: the memory whole, or a cold boot; the region's state decides which."""
    machine.mount()
    status = machine.status()
    assert status["state"] == "armed"
    assert status["resumed"] == (region_state == "hibernated")
    if status["resumed"]:
        assert memory_of(machine) == content
    assert (machine.mountpoint / "kept").read_text() == "kept"
    return bool(status["resumed"])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hibernator_killed_at_any_moment_is_no_wrong_resume(machine: Machine, memory_image: Path, seed: int) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    (machine.mountpoint / "kept").write_text("kept")
    content = memory_of(machine)
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    command = background(machine, "hibernate", machine.mountpoint)
    hibernator = found.standby(HIBERNATOR_RANK)
    wait_until(lambda: found.state in (MachineState.HIBERNATING, MachineState.HIBERNATED), "the machine hands over")
    time.sleep(random.Random(seed).random() * 0.15)
    try:
        os.kill(hibernator[StandbyRegister.PID], signal.SIGKILL)
    except ProcessLookupError:
        assert found.state == MachineState.HIBERNATED
    finish(command)
    found.close()
    machine.must_be_clean()
    state = machine.facts("inspect", machine.image)["region_state"]
    assert state in ("hibernating", "hibernated")
    assert machine.status()["state"] in ("failed", "hibernated")
    must_go_on_or_say_why(machine, content, state)


def test_a_hibernator_that_died_before_it_was_called_leaves_a_clean_shutdown(machine: Machine) -> None:
    machine.create()
    machine.mount()
    (machine.mountpoint / "kept").write_text("kept")
    status = machine.status()
    os.kill(status["pid"], signal.SIGPWR)

    def hibernators() -> list[str]:
        children = Path(f"/proc/{status['pid']}/task/{status['pid']}/children").read_text().split()
        return [pid for pid in children if b"crash.hibernator" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_until(lambda: bool(hibernators()), "the hibernator is started")
    os.kill(int(hibernators()[0]), signal.SIGKILL)
    wait_until(lambda: machine.status()["state"] in ("armed", "failed"), "the machine has noticed")
    if machine.status()["state"] == "armed":
        (machine.mountpoint / "runs-on").write_text("yes")
        machine.unmount()
    machine.must_be_clean()
    machine.mount()
    assert machine.status()["resumed"] is False
    assert (machine.mountpoint / "kept").read_text() == "kept"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resume_killed_at_any_moment_is_resumed_once_at_the_most(
    machine: Machine, memory_image: Path, seed: int
) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    (machine.mountpoint / "kept").write_text("kept")
    content = memory_of(machine)
    machine.hibernate()
    command = background(machine, "mount", machine.image, machine.mountpoint)

    def booting() -> Any:
        found = runtime.find(str(machine.mountpoint))
        return found if found and found.state == MachineState.BOOTING else None

    wait_until(lambda: booting() is not None, "the machine boots")
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    time.sleep(random.Random(seed).random() * 0.3)
    os.kill(found[Register.MACHINE_PID], signal.SIGKILL)
    finish(command)
    found.close()
    wait_until(lambda: machine.status()["state"] in ("failed", "dumped"), "what it left is over")
    state = machine.facts("inspect", machine.image)["region_state"]
    if must_go_on_or_say_why(machine, content, state):
        machine.kill()
        machine.mount()
        assert machine.status()["resumed"] is False


def test_a_machine_with_a_page_file_sleeps_with_all_its_pages(machine: Machine) -> None:
    machine.create(recipe='size = "128MiB"\nmemory = "16MiB"\n[region]\nkind = "pagefile"\n')
    machine.mount()
    for turn in (1, 2):
        for number in range(400):
            (machine.mountpoint / f"file{number}").write_bytes(b"x")
        wait_until(lambda: machine.status()["paging"]["pages_out"] > 50, "pages are out")
        assert machine.hibernate()["hibernated"] is True
        assert machine.status()["paging"]["pages_out"] == 0
        assert machine.status()["paging"]["failures"] == 0
        machine.mount()
        status = machine.status()
        assert (status["resumed"], status["paging"]["pages_out"]) == (True, 0), turn
    assert machine.crash()["verdict"] == "COMPLETE"


def test_an_encrypted_disk_keeps_the_memory_to_itself(machine: Machine) -> None:
    secret = b"nobody is to read this from the disk but who has the key of it."
    key, memory = machine.directory / "key", machine.directory / "memory.raw"
    key.write_bytes(os.urandom(32))
    memory.write_bytes(secret * (16 * MIB // len(secret)))
    machine.run("create", machine.image, "--size", "128MiB", "--memory", "16MiB", "--encrypt", "--key-file", key)
    machine.mount("--memory-image", memory, "--key-file", key)
    before = memory_of(machine)
    machine.hibernate()
    names = {module["name"] for module in machine.facts("drivers", machine.mountpoint)}
    assert names == {"hiber_storahci", "hiber_diskdump", "hiber_dumpfve"}
    assert secret[:32] not in machine.image.read_bytes()
    machine.mount("--key-file", key)
    assert machine.status()["resumed"] is True
    assert memory_of(machine) == before


def hardware_of(machine: Machine) -> Registers:
    """The controller's registers, by a descriptor of the machine's process."""
    pid = machine.status()["pid"]
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if os.readlink(path).startswith("/memfd:ghostdump-controller"):
            descriptor = os.open(path, os.O_RDWR)
            registers = Registers(descriptor)
            os.close(descriptor)
            return registers
    raise AssertionError("the machine has no controller")


@pytest.mark.parametrize("fault", ["bad sectors", "power cut"])
def test_hardware_that_fails_meanwhile_is_a_cold_boot(machine: Machine, memory_image: Path, fault: str) -> None:
    machine.create(memory="24MiB")
    machine.mount("--memory-image", memory_image)
    (machine.mountpoint / "kept").write_text("kept")
    hardware = hardware_of(machine)
    if fault == "bad sectors":
        start = machine.facts("extents", machine.mountpoint)[0]["physical_bytes"]
        hardware.set_bad_runs([Run(start + 10 * MIB, 5 * MIB)])  # more than frames can be moved out of
    else:
        hardware[HardwareRegister.POWER_LEFT_BYTES] = 5 * MIB
        hardware[HardwareRegister.POWER] = Power.ENDING
    facts = machine.hibernate(check=1)
    assert (facts["hibernated"], facts["verdict"]) == (False, "PARTIAL" if fault == "bad sectors" else "NONE")
    status = machine.status()
    assert (status["state"], status["crash"]) == ("failed", None)
    machine.must_be_clean()
    assert not must_go_on_or_say_why(machine, b"", machine.facts("inspect", machine.image)["region_state"])
    assert "did not finish" in machine.status()["resume"]["reason"]
