"""ext4 images for the tests, and their judges: e2fsck and debugfs."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vdisk.ext4.mkfs import make_filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID = "6b0c7a3c-5d5e-4a11-9d11-0123456789ab"
MIB = 1 << 20
TAIL_BYTES = 4096 * 4  # behind the filesystem, as the boot area stands there: nothing may touch it


@functools.cache
def fresh_image(size_bytes: int) -> bytes:
    """The bytes of an empty filesystem of `size_bytes`, with a tail of 0xEE behind it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "fresh")
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(size_bytes + TAIL_BYTES)
        make_filesystem(str(path), size_bytes, label="test", uuid=UUID)
        return path.read_bytes()[:size_bytes] + b"\xee" * TAIL_BYTES


def fresh_disk(size_bytes: int = 16 * MIB) -> MemoryDisk:
    image = fresh_image(size_bytes)
    return MemoryDisk(len(image), image)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def repair(path: Path) -> str:
    """What e2fsck -p says; it must not need a human."""
    result = run("e2fsck", "-p", str(path))
    assert result.returncode in (0, 1), f"e2fsck -p: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def assert_clean(path: Path) -> None:
    result = run("e2fsck", "-fn", str(path))
    assert result.returncode == 0, f"e2fsck -fn: {result.returncode}\n{result.stdout}{result.stderr}"


def assert_disk_clean(disk: MemoryDisk, directory: Path) -> Path:
    """The disk as it is now passes e2fsck -fn, and its tail was left alone. Returns the file that it was dumped to."""
    path = directory / "disk"
    path.write_bytes(disk.content)
    assert disk.content[-TAIL_BYTES:] == b"\xee" * TAIL_BYTES
    assert_clean(path)
    return path


def debugfs_extents(path: Path, name: str) -> Iterator[tuple[int, int, int]]:
    """(logical, physical, length) in blocks, as debugfs reads the extent tree."""
    output = run("debugfs", "-R", f"dump_extents -l {name}", str(path)).stdout
    for line in output.splitlines()[1:]:
        words = line.replace("/", " ").replace("-", " ").split()
        level, depth, _, _, first, _, physical, *_, length = words[:11] if len(words) > 10 else words
        if level == depth:
            yield int(first), int(physical), int(length)
