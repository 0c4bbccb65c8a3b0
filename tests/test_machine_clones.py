"""A clone that is corrupted, for real: somebody writes into the memory of a standby, or ends it, or holds it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import blake3
import pytest

from dumpwriter import runtime
from dumpwriter.crash import dump
from dumpwriter.formats.runtime import MachineState, Register
from dumpwriter.machine.status import describe
from tests import process_memory
from tests.machines import COMMAND
from tests.mounting import wait_until
from tests.process_memory import needs_root
from tests.test_machine_attacks import memory_that_tells, must_be_exact
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, RECORD_OFFSETS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.machines import Machine

PAGES = 4096


@pytest.fixture
def memory(machine: Machine) -> Path:
    """An armed machine, and what is in its memory."""
    content = memory_that_tells(machine.directory / "memory.raw", PAGES)
    machine.create(size="64MiB")
    machine.mount("--memory-image", content)
    return content


def standby(machine: Machine, rank: int) -> Any:
    return machine.status()["standbys"][rank]


def damage_image(machine: Machine, rank: int) -> None:
    """A bit in the code of the second of its clones."""
    pid = standby(machine, rank)["pid"]
    row = [row for row in machine.facts("drivers", machine.mountpoint) if row["pid"] == pid][1]
    process_memory.flip(pid, row["address"] + row["size_bytes"] // 2)


def damage_extents(machine: Machine, rank: int) -> None:
    """A recorded extent that leads to somebody's file."""
    found = standby(machine, rank)
    extents = found["control_block"]["extents"]
    process_memory.write(found["pid"], extents["address"] + 8, (1 << 20).to_bytes(8, "little"))


def damage_code(machine: Machine, rank: int) -> None:
    """A function of the crash path that did not run yet, wherever the interpreter has it."""
    pid = standby(machine, rank)["pid"]
    places = process_memory.find(pid, dump._write_alone.__code__.co_code)
    assert places
    for place in places:
        process_memory.flip(
            pid, place + 2
        )  # the first instruction that does something, and none of the caches behind others


DAMAGES = [damage_image, damage_extents, damage_code]
OF_BOTH = [*(pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES[:2]), damage_code]


def test_clones_are_where_the_module_table_says(machine: Machine) -> None:
    machine.create()
    machine.mount()
    status = machine.status()
    rows = machine.facts("drivers", machine.mountpoint)
    clones = [row for row in rows if row["name"].startswith("dump_")]
    assert [row["pid"] for row in rows if row not in clones] == [status["pid"]] * 2
    assert [row["pid"] for row in clones] == [found["pid"] for found in status["standbys"] for _ in range(2)]
    if os.geteuid():
        return
    for row in clones:
        assert (
            blake3.blake3(process_memory.read(row["pid"], row["address"], row["size_bytes"])).hexdigest()
            == row["digest"]
        )
        assert not os.path.exists(row["path"])


@needs_root
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_second_clone_takes_over_where_the_first_is_damaged(
    machine: Machine, memory: Path, damage: Callable[[Machine, int], None]
) -> None:
    damage(machine, 0)
    crash = machine.crash()
    assert (crash["verdict"], crash["standby"]) == ("COMPLETE", 1)
    status = machine.status()
    assert status["state"] == "dumped"
    assert [("damaged" in found["reason"] or "digest" in found["reason"]) for found in status["standbys"]] == [
        True,
        False,
    ]
    assert ", by the second standby (first standby: " in machine.run("verify", machine.image).stdout
    machine.mount()
    assert must_be_exact(machine.crash_directory() / "vmcore", memory) == PAGES
    report = json.loads((machine.crash_directory() / "report.json").read_text())
    assert (report["standby"], report["takeover"]) == (1, f"first standby: {status['standbys'][0]['reason']}")


@needs_root
@pytest.mark.parametrize("damage", OF_BOTH)
def test_nothing_is_written_where_both_are_damaged(
    machine: Machine, memory: Path, damage: Callable[[Machine, int], None]
) -> None:
    pid = machine.status()["pid"]
    os.kill(pid, signal.SIGSTOP)  # or it replaces who finds in its regular look at itself that it is damaged
    damage(machine, 0)
    damage(machine, 1)
    before = digest_of(machine.image)
    os.kill(pid, signal.SIGKILL)
    machine.wait_until_dumped()
    assert digest_of(machine.image) == before
    status = machine.status()
    assert (status["state"], status["crash"]["verdict"]) == ("failed", "NONE")
    assert status["crash"]["reason"].startswith("first standby: ")
    assert "; second standby: " in status["crash"]["reason"]
    machine.mount()
    assert machine.status()["last_recovery"]["verdict"] == "NONE"
    assert machine.status()["state"] == "armed"
    del memory


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@needs_root
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_damage_is_found_while_the_machine_runs(machine: Machine, memory: Path, rank: int) -> None:
    old = standby(machine, rank)["pid"]

    def is_armed_anew() -> bool:
        status = machine.status()
        return standby_of(status, rank) not in (None, old) and status["state"] == "armed"

    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    damage_extents(machine, rank)
    reason = f"{('first', 'second')[rank]} standby: dump control block: digest does not hold"
    wait_until(lambda: (told := describe(found))["state"] == "degraded" and told["reason"] == reason, "it is degraded")
    found.close()
    wait_until(is_armed_anew, "another standby is armed")
    (rearming,) = machine.status()["rearmings"]
    assert (rearming["rank"], rearming["reason"]) == (rank, "dump control block: digest does not hold")
    assert "digest does not hold" in (machine.mountpoint / ".ghostdump" / "log").read_text()
    assert machine.facts("rehearse", machine.mountpoint)["passed"]
    assert machine.crash()["standby"] == 0
    machine.mount()
    assert must_be_exact(machine.crash_directory() / "vmcore", memory) == PAGES


def standby_of(status: Any, rank: int) -> int | None:
    rows = [row for row in status["standbys"] if row["rank"] == rank]
    return rows[0]["pid"] if rows else None


@pytest.mark.parametrize("order", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_the_second_takes_over_in_the_middle_of_a_dump(machine: Machine, order: signal.Signals) -> None:
    pages = 32768
    content = machine.directory / "memory.raw"
    piece = os.urandom(1 << 20)
    content.write_bytes(b"".join(number.to_bytes(8, "little") + piece[8:] for number in range(pages // 256)))
    machine.create(size="256MiB", memory="128MiB")
    machine.mount("--memory-image", content)
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    first = standby(machine, 0)["pid"]
    crash = subprocess.Popen([COMMAND, "crash", machine.mountpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while found.state != MachineState.DUMPING or not found[Register.PAGES_WRITTEN]:
        assert crash.poll() is None
    os.kill(first, order)
    assert found.state == MachineState.DUMPING, "too late: the dump was written"
    said, complaint = crash.communicate(timeout=60)
    assert crash.returncode == 0, complaint
    assert b"the second standby wrote it" in said
    assert found[Register.WRITER] == 2
    found.close()
    expected = {signal.SIGKILL: "ended without a word", signal.SIGSTOP: "stood still and was ended"}[order]
    assert standby(machine, 0)["reason"] == expected
    recovered = machine.run("recover", machine.image, "--output", "out").stdout
    assert f", by the second standby (first standby: {expected})" in recovered
    assert must_be_exact(machine.directory / "out" / "1" / "vmcore", content) == pages


def test_a_standby_that_stands_still_does_not_outlive_the_dump(machine: Machine) -> None:
    """It would hold the image, and the next mount would wait for it."""
    machine.create(size="64MiB")
    machine.mount()
    second = standby(machine, 1)["pid"]
    os.kill(second, signal.SIGSTOP)
    crash = machine.crash()
    assert (crash["verdict"], crash["standby"]) == ("COMPLETE", 0)
    assert [found["pid"] for found in machine.status()["standbys"]] == [None, None]
    machine.mount()
    assert machine.status()["last_recovery"]["verdict"] == "COMPLETE"


def test_each_standby_is_replaced_alone(machine: Machine) -> None:
    machine.create()
    machine.mount()
    before = machine.status()["standbys"]
    os.kill(before[1]["pid"], signal.SIGKILL)
    wait_until(
        lambda: machine.status()["state"] == "armed" and standby(machine, 1)["pid"] != before[1]["pid"],
        "another second standby is armed",
    )
    assert standby(machine, 0)["pid"] == before[0]["pid"]
    assert [(entry["rank"], entry["reason"]) for entry in machine.status()["rearmings"]] == [(1, "it died")]
    pid = machine.status()["pid"]
    os.kill(pid, signal.SIGSTOP)  # so that it replaces nobody
    os.kill(before[0]["pid"], signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    machine.wait_until_dumped()
    assert machine.status()["crash"]["standby"] == 1
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


def test_a_boot_record_that_somebody_wrote_over_degrades_the_machine(machine: Machine) -> None:
    machine.create()
    machine.mount()
    area = machine.image.stat().st_size - BOOT_AREA_SIZE_BYTES
    places = [area + offset + 64 for offset in RECORD_OFFSETS_BYTES]
    with machine.image.open("r+b", buffering=0) as disk:
        kept = [os.pread(disk.fileno(), 8, place) for place in places]
        for place in places:
            os.pwrite(disk.fileno(), os.urandom(8), place)
        wait_until(lambda: machine.status()["state"] == "degraded", "the boot record is missed")
        assert "the boot area is damaged" in machine.status()["reason"]
        for place, content in zip(places, kept, strict=True):
            os.pwrite(disk.fileno(), content, place)
    wait_until(lambda: machine.status()["state"] == "armed", "the boot record is there again")
