"""The promise, held against real processes: every byte, no other block, and the filesystem as the crash left it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.builders.elf_reader import ElfCoreFile
from tests.changes import changed_blocks
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG_BYTES = 256 << 20
FRAGMENTED = 'size = "600MiB"\nmemory = "256MiB"\n[region]\nextents = 60\n'
FULL = 'size = "400MiB"\nmemory = "256MiB"\n[disk]\nfill_percent = 100\n'


@pytest.fixture(scope="module")
def mixed_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """256 MiB of everything: noise, text, zeros in pages and in holes, repeated bytes, and a last odd piece."""
    path = tmp_path_factory.mktemp("memory") / "memory.raw"
    source = random.Random(1)
    noise, text = source.randbytes(1 << 20), b"the quick brown fox jumps over the lazy dog\n" * 25_000
    with path.open("wb") as file:
        for number in range(BIG_BYTES >> 20):
            kind = number % 5
            file.seek(number << 20)
            if kind == 0:
                file.write(noise[number:] + noise[:number])
            elif kind == 1:
                file.write(text[: 1 << 20])
            elif kind == 2:
                file.write(bytes(300_000) + source.randbytes(5_000))
            elif kind == 3:
                file.write(bytes([number % 256]) * 700_001)
        file.truncate(BIG_BYTES)
    yield path
    path.unlink()


def must_be_the_memory(vmcore: Path, memory: Path) -> None:
    """Every byte of memory is in one PT_LOAD of the vmcore, and is the same."""
    loads = ElfCoreFile(vmcore.read_bytes()).loads
    content, found = memory.read_bytes(), vmcore.read_bytes()
    covered = 0
    for load in loads:
        assert load.in_file == load.in_memory
        assert content[load.physical : load.physical + load.in_file] == found[load.offset : load.offset + load.in_file]
        covered += load.in_file
    assert covered == len(content)


@pytest.mark.parametrize("killed", [False, True], ids=["bugcheck", "kill -9"])
def test_every_byte_comes_back_through_a_fragmented_region(machine: Machine, mixed_image: Path, killed: bool) -> None:
    machine.create(recipe=FRAGMENTED)
    machine.mount("--memory-image", mixed_image)
    assert len(machine.status()["region"]["extents"]) >= 50
    if killed:
        machine.kill()
    else:
        assert machine.crash()["verdict"] == "COMPLETE"
    machine.mount("--memory-image", mixed_image)
    report = json.loads((machine.crash_directory() / "report.json").read_text())
    assert report["verdict"] == "COMPLETE"
    assert report["cause"] == ("machine died" if killed else "bugcheck")
    must_be_the_memory(machine.crash_directory() / "vmcore", mixed_image)
    machine.unmount()
    machine.must_be_clean()


def test_a_full_disk_dumps_and_keeps_the_dump_until_it_is_taken_out(machine: Machine, mixed_image: Path) -> None:
    machine.create(recipe=FULL)
    machine.mount("--memory-image", mixed_image)
    with pytest.raises(OSError, match="No space left"):
        (machine.mountpoint / "more").write_bytes(bytes(1 << 20))
    assert machine.crash()["verdict"] == "COMPLETE"

    said = machine.mount("--memory-image", mixed_image).stdout
    assert "NOT armed" in said
    assert "recover" in said and "--discard-dump" in said
    status = machine.status()
    assert status["state"] == "disarmed"
    assert "no room" in status["reason"]
    assert "a crash leaves a small dump" in status["reason"]
    assert machine.crash(check=1)["verdict"] == "PARTIAL"

    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["verdict"], report["kind"]) == ("PARTIAL", "small")
    assert [(dump["verdict"], dump["kind"]) for dump in report["earlier"]] == [("COMPLETE", "region")]
    must_be_the_memory(machine.directory / "out" / "1" / "vmcore", mixed_image)
    machine.mount("--memory-image", mixed_image)
    assert machine.status()["state"] == "armed"


def test_a_dump_can_be_given_up(machine: Machine) -> None:
    machine.create(recipe='size = "48MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount()
    machine.crash()
    machine.mount()
    assert machine.status()["state"] == "disarmed"
    machine.unmount()
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"
    machine.mount("--discard-dump")
    assert machine.status()["state"] == "armed"
    machine.unmount()
    assert machine.facts("recover", machine.image, "--output", "out", check=1)["verdict"] == "NONE"


@pytest.mark.parametrize("pieces", [pytest.param(1, marks=pytest.mark.slow), 20])
def test_the_dump_changes_no_block_but_its_own(machine: Machine, pieces: int) -> None:
    machine.create(recipe=f'size = "160MiB"\nmemory = "32MiB"\n[region]\nextents = {pieces}\n')
    machine.mount()
    shutil.copytree("/usr/share/doc/bash", machine.mountpoint / "doc", symlinks=True)
    status = machine.status()
    machine.signal_standbys(signal.SIGSTOP)
    os.kill(status["pid"], signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{status['pid']}"), "the mount process is gone")
    before = machine.directory / "before.img"
    subprocess.run(["cp", "--sparse=always", machine.image, before], check=True)
    machine.signal_standbys(signal.SIGCONT)
    machine.wait_until_dumped()

    boot_area = machine.image.stat().st_size - (8 << 20)
    permitted = set(range(boot_area // 4096, machine.image.stat().st_size // 4096))
    for extent in status["region"]["extents"]:
        first = extent["physical_bytes"] // 4096
        permitted |= set(range(first, first + extent["length_bytes"] // 4096))
    changed = changed_blocks(before, machine.image)
    assert changed, machine.status()["crash"]
    assert changed <= permitted
    before.unlink()
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"
    machine.check_filesystem()


def test_what_was_synced_is_there_and_the_kernel_sees_the_same_tree(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("a loop mount needs root")
    machine.create()
    machine.mount()
    shutil.copytree("/usr/share/doc/bash", machine.mountpoint / "doc", symlinks=True)
    os.symlink("doc/copyright", machine.mountpoint / "link")
    subprocess.run(["sync", "-f", machine.mountpoint], check=True)
    for path in (machine.mountpoint / "doc").iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    ours = tree(machine.mountpoint)
    machine.kill()
    theirs = machine.directory / "kernel"
    theirs.mkdir()
    subprocess.run(["mount", "-o", "loop", machine.image, theirs], check=True)
    try:
        assert tree(theirs) == ours
    finally:
        subprocess.run(["umount", theirs], check=True)
    machine.check_filesystem()


def tree(root: Path) -> dict[str, object]:
    """Names, modes and contents below a directory, but for what only a mount of ours shows and the region's bytes."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for hidden in (".ghostdump", "lost+found"):
            if hidden in names:
                names.remove(hidden)
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            state = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path) and name != "dump.bin":
                with open(path, "rb") as file:
                    content = file.read()
            key = os.path.relpath(path, root)
            found[key] = (state.st_mode, state.st_uid, state.st_size if files else 0, state.st_mtime_ns, content)
    return found


def test_the_extents_are_those_that_debugfs_sees(machine: Machine) -> None:
    machine.create(recipe='size = "128MiB"\nmemory = "16MiB"\n[region]\nextents = 12\n')
    machine.mount()
    ours = machine.facts("extents", machine.mountpoint)
    machine.unmount()
    assert machine.facts("extents", machine.image) == ours
    said = subprocess.run(
        ["debugfs", "-R", "dump_extents -l /dump.bin", machine.image], capture_output=True, text=True, check=True
    ).stdout
    rows = [[int(number) for number in re.findall(r"\d+", line)] for line in said.splitlines()[1:]]
    # level, levels, entry, entries, first logical, last logical, first physical, last physical, length
    theirs = [
        {"logical_bytes": row[4] * 4096, "physical_bytes": row[6] * 4096, "length_bytes": row[8] * 4096} for row in rows
    ]
    assert theirs == ours
    assert len(ours) >= 12


@pytest.mark.parametrize("what", ["removed", "moved", "made anew with holes"])
def test_a_region_that_others_changed_is_noticed_and_made_anew(machine: Machine, what: str) -> None:
    if os.geteuid():
        pytest.skip("a kernel mount needs root")
    machine.create(size="240MiB", memory="32MiB")
    machine.mount()
    assert machine.crash()["verdict"] == "COMPLETE"
    theirs = machine.directory / "kernel"
    theirs.mkdir()
    subprocess.run(["mount", "-o", "loop", machine.image, theirs], check=True)
    try:
        if what == "moved":
            os.rename(theirs / "dump.bin", theirs / "elsewhere.bin")
        else:
            os.unlink(theirs / "dump.bin")
        content = os.urandom(60 << 20)
        (theirs / "user").write_bytes(content)
        if what == "made anew with holes":
            with (theirs / "dump.bin").open("wb") as file:
                file.truncate(64 << 20)
    finally:
        subprocess.run(["umount", theirs], check=True)

    machine.mount()
    recovery = machine.status()["last_recovery"]
    assert recovery["verdict"] in (("COMPLETE",) if what == "moved" else ("COMPLETE", "PARTIAL", "NONE"))
    assert machine.status()["state"] == "armed"
    assert (machine.mountpoint / "user").read_bytes() == content
    assert machine.crash("--bugcheck", "2")["verdict"] == "COMPLETE"
    machine.check_filesystem()
    machine.mount()
    assert (machine.mountpoint / "user").read_bytes() == content
    newest = max(int(name) for name in os.listdir(machine.mountpoint / "var" / "crash") if name.isdecimal())
    report = json.loads((machine.crash_directory(newest) / "report.json").read_text())
    assert (report["verdict"], report["bugcheck"]["code"]) == ("COMPLETE", 2)


def test_the_region_is_pinned_while_armed(machine: Machine) -> None:
    machine.create()
    machine.mount()
    region = machine.mountpoint / "dump.bin"
    other = machine.mountpoint / "other"
    other.write_bytes(b"x")
    attempts = (
        lambda: os.unlink(region),
        lambda: os.rename(region, machine.mountpoint / "moved"),
        lambda: os.rename(other, region),
        lambda: os.truncate(region, 0),
        lambda: os.link(region, machine.mountpoint / "link"),
        lambda: os.chmod(region, 0o644),
        lambda: os.open(region, os.O_WRONLY | os.O_TRUNC),
        lambda: os.setxattr(region, "user.x", b"y"),
        lambda: region.open("r+b", buffering=0).write(b"z"),
    )
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()
    subprocess.run(["rm", "-f", region], check=False, capture_output=True)
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


def test_a_mount_that_does_not_answer_is_crashed_all_the_same(machine: Machine) -> None:
    machine.create()
    machine.mount()
    os.kill(machine.status()["pid"], signal.SIGSTOP)
    assert machine.status()["state"] == "armed"
    assert machine.crash("--bugcheck", "0x133")["verdict"] == "COMPLETE"
    report = machine.facts("recover", machine.image, "--output", "out")
    assert (report["cause"], report["bugcheck"]["code"]) == ("watchdog", 0x133)


def test_a_standby_that_dies_is_replaced(machine: Machine) -> None:
    machine.create()
    machine.mount()
    first = machine.status()["standbys"][0]["pid"]
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: machine.status()["standbys"][0]["pid"] not in (None, first) and machine.status()["state"] == "armed",
        "another standby is armed",
    )
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


def test_the_standby_holds_the_lock_until_the_dump_is_written(machine: Machine) -> None:
    machine.create()
    machine.mount()
    status = machine.status()
    machine.signal_standbys(signal.SIGSTOP)
    os.kill(status["pid"], signal.SIGKILL)
    said = machine.run("recover", machine.image, "--output", "out", check=1).stderr
    assert "in use" in said
    next_mount = subprocess.Popen(
        [COMMAND, "mount", str(machine.image), str(machine.mountpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    machine.signal_standbys(signal.SIGCONT)
    output, complaint = next_mount.communicate(timeout=60)
    assert next_mount.returncode == 0, complaint
    assert b"COMPLETE" in output


@pytest.mark.parametrize("lost", ["boot record", pytest.param("extent table", marks=pytest.mark.slow)])
def test_a_dump_is_carved_where_the_boot_area_is_lost(machine: Machine, lost: str) -> None:
    machine.create(recipe='size = "128MiB"\nmemory = "16MiB"\n[region]\nextents = 40\n')
    machine.mount()
    machine.crash("--bugcheck", "1")
    machine.mount()
    machine.crash("--bugcheck", "2")
    whole = machine.facts("verify", machine.image)
    area = machine.image.stat().st_size - (8 << 20)
    with machine.image.open("r+b") as file:
        for offset in (0, 4096) if lost == "boot record" else (64 << 10, 1 << 20):
            file.seek(area + offset + 64)
            file.write(os.urandom(64))
    report = machine.facts("recover", machine.image, "--output", "out")
    assert report["verdict"] == "COMPLETE"
    assert "damaged" in report["carved"]
    assert report["generation"] == whole["generation"] == 4
    assert report["pages_present"] == whole["pages_present"]
    assert ElfCoreFile((machine.directory / "out" / "1" / "vmcore").read_bytes()).loads


def test_a_region_too_small_warns_and_keeps_the_best_pages(machine: Machine, tmp_path: Path) -> None:
    memory = tmp_path / "memory.raw"
    memory.write_bytes(os.urandom(64 << 20))
    machine.create(size="64MiB", memory="16MiB")
    assert "warning: the region has" in machine.mount("--memory-image", memory).stdout
    assert "warning" in machine.run("status", machine.mountpoint).stdout
    crash = machine.crash(check=1)
    assert (crash["verdict"], crash["reason"]) == ("PARTIAL", "the region is too small for all that the level asks for")
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["verdict"], report["pages_present"]) == ("PARTIAL", crash["pages_present"])
    vmcore = ElfCoreFile((tmp_path / "out" / "1" / "vmcore").read_bytes())
    content = memory.read_bytes()
    for load in vmcore.loads:
        found = vmcore.content[load.offset : load.offset + load.in_file]
        assert found == content[load.physical : load.physical + load.in_file]
    missing = sum(run["page_count"] for run in report["missing"])
    assert missing + report["pages_present"] == report["pages_total"] == 16384
    assert vmcore.flags & 1
