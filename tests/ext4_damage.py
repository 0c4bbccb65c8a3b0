"""Opens and uses damaged filesystems: `python -m tests.ext4_damage FIRST_SEED COUNT`.

A process of its own, because what is looked for is a crash of the library. Prints how many images could be opened.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import stat
import sys
from typing import TYPE_CHECKING

from tests.ext4_images import TAIL_BYTES, fresh_disk
from vdisk.errors import GhostdumpError
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 4096
DATA = b"z"
DECLARED = (GhostdumpError, OSError)


def healthy_image() -> bytes:
    """Has one of everything: a directory of several blocks, extent trees, attribute blocks, a long symbolic link."""
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    directory = fs.mkdir(ROOT_INO, b"directory", 0o755, 0, 0).ino
    for index in range(300):
        fs.symlink(directory, b"name %d" % index, b"target", 0, 0)
    fs.symlink(ROOT_INO, b"long", b"t" * 1000, 0, 0)
    files = [fs.create(ROOT_INO, name, 0o600, 0, 0).ino for name in (b"a", b"b")]
    for index in range(500):
        for ino in files:
            fs.write(ino, index * BLOCK_BYTES, DATA * BLOCK_BYTES)
    fs.xattr_set(files[0], b"user.large", b"v" * 2000)
    fs.close()
    return bytes(disk.content)


def metadata_blocks(image: bytes) -> list[int]:
    uninteresting = (bytes(BLOCK_BYTES), DATA * BLOCK_BYTES)
    count = (len(image) - TAIL_BYTES) // BLOCK_BYTES
    return [n for n in range(count) if image[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES] not in uninteresting]


def damage(image: bytes, blocks: list[int], chance: random.Random) -> bytes:
    """Spoil some words of the metadata; of every other image, with all checksums off, so that it is believed."""
    damaged = bytearray(image)
    for _ in range(chance.choice((1, 3, 20, 200))):
        offset = chance.choice(blocks) * BLOCK_BYTES + chance.randrange(0, BLOCK_BYTES, 2)
        damaged[offset : offset + 2] = chance.choice((b"\0\0", b"\xff\xff", chance.randbytes(2)))
    if chance.random() < 0.5:
        damaged[1024 + 0x65] &= ~0x04
    return bytes(damaged)


def walk(fs: Ext4Filesystem, ino: int, seen: set[int]) -> Iterator[int]:
    """Every inode that names lead to."""
    seen.add(ino)
    yield ino
    with contextlib.suppress(*DECLARED):
        for _, child, _, _ in list(fs.entries(ino, 0)):
            if child not in seen and stat.S_ISDIR(fs.attributes(child).mode):
                yield from walk(fs, child, seen)
            yield child


def use(fs: Ext4Filesystem, chance: random.Random) -> None:
    """Do everything once. A declared error is a good answer."""
    for ino in list(walk(fs, ROOT_INO, set())):
        for look in (fs.attributes, fs.readlink, fs.xattr_list, fs.extents):
            with contextlib.suppress(*DECLARED):
                look(ino)
        with contextlib.suppress(*DECLARED):
            fs.read(ino, chance.randrange(1 << 20), 1 << 18)
    for name in (b"a", b"b", b"long", b"directory"):
        with contextlib.suppress(*DECLARED):
            ino = fs.lookup(ROOT_INO, name)
            fs.set_attributes(ino, mode=0o600)
            fs.xattr_set(ino, b"user.new", b"value")
            fs.write(ino, chance.randrange(1 << 21), b"w" * 5000)
            fs.set_attributes(ino, size_bytes=chance.randrange(1 << 21))
    changes = (
        lambda: fs.mkdir(ROOT_INO, b"new", 0o700, 0, 0),
        lambda: fs.unlink(ROOT_INO, b"a"),
        lambda: fs.rename(ROOT_INO, b"b", ROOT_INO, b"long"),
        fs.close,
    )
    for change in changes:
        with contextlib.suppress(*DECLARED):
            change()


def main(first_seed: int, count: int) -> int:
    image = healthy_image()
    blocks = metadata_blocks(image)
    opened = 0
    for seed in range(first_seed, first_seed + count):
        chance = random.Random(seed)
        try:
            fs = Ext4Filesystem.open(MemoryDisk(len(image), damage(image, blocks, chance)))
        except GhostdumpError:
            continue
        use(fs, chance)
        opened += 1
    return opened


if __name__ == "__main__":
    faulthandler.enable()
    print(main(int(sys.argv[1]), int(sys.argv[2])))  # noqa: T201 - what the test reads
