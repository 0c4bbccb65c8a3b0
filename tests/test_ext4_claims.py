"""A file that claims blocks which are not its own: a damaged disk may say so with every checksum right."""

from __future__ import annotations

import errno
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import debugfs_extents, fresh_disk, run
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine


def move_extent(path: Path, name: str, block: int, length: int) -> None:
    """Move the one extent of a file, with all checksums right: the filesystem still says that it is clean."""
    commands = f"extent_open {name}\nroot\nnext\nreplace_node 0 {length} {block}\nextent_close\n"
    edited = subprocess.run(
        ["debugfs", "-w", "-f", "-", str(path)], input=commands, capture_output=True, text=True, check=True
    )
    assert list(debugfs_extents(path, name)) == [(0, block, length)], edited.stdout + edited.stderr


def system_places(path: Path) -> dict[str, int]:
    """A block of each kind that the filesystem keeps for itself, and one that is free."""
    group = run("dumpe2fs", str(path)).stdout
    places = {
        name: int(re.search(rf"{name} at (\d+)", group)[1])  # type: ignore[index]
        for name in ("Reserved GDT blocks", "Block bitmap", "Inode bitmap", "Inode table")
    }
    journal = run("debugfs", "-R", "blocks <8>", str(path)).stdout.split()
    return places | {"superblock": 0, "descriptors": 1, "journal": int(journal[5]), "free": 4000, "beyond": 4092}


@pytest.mark.parametrize(
    "kind",
    [
        "superblock",
        "descriptors",
        "Reserved GDT blocks",
        "Block bitmap",
        "Inode bitmap",
        "Inode table",
        "journal",
        "free",
        "beyond",
    ],
)
def test_a_file_that_claims_what_is_not_its_own_is_damaged(kind: str, tmp_path: Path) -> None:
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    ino = fs.create(ROOT_INO, b"a", 0o600, 0, 0).ino
    fs.write(ino, 0, b"a" * 4096 * 8)
    fs.close()
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    move_extent(path, "/a", system_places(path)[kind], 8)
    damaged = MemoryDisk(disk.size_bytes, path.read_bytes())
    before = bytes(damaged.content)
    fs = Ext4Filesystem.open(damaged)
    with pytest.raises(OSError, match=r".") as refusal:
        fs.extents(ino)
    assert refusal.value.errno == errno.EUCLEAN
    if kind != "free":
        with pytest.raises(OSError, match=r".") as refusal:
            fs.read(ino, 0, 4096)
        assert refusal.value.errno == errno.EUCLEAN
        with pytest.raises(OSError, match=r".") as refusal:
            fs.set_attributes(ino, size_bytes=0)
        assert refusal.value.errno == errno.EUCLEAN
    fs.abandon()
    assert damaged.content == before


@pytest.mark.parametrize(
    "block", [pytest.param(0, id="superblock"), pytest.param(1, id="descriptors", marks=pytest.mark.slow)]
)
def test_a_machine_does_not_arm_with_such_a_region(block: int, machine: Machine) -> None:
    machine.create()
    ((_, _, length),) = debugfs_extents(machine.image, "/dump.bin")
    move_extent(machine.image, "/dump.bin", block, length)
    machine.mount()
    status = machine.status()
    assert status["state"] == "disarmed"
    assert "e2fsck -f" in status["reason"]
    machine.unmount()
    repaired = run("e2fsck", "-fy", str(machine.image))
    assert repaired.returncode == 1, repaired.stdout
    machine.mount()
    assert machine.status()["state"] == "armed"
    machine.unmount()
