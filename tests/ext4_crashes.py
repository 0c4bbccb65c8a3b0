"""Power cuts: a disk that records its writes, and what of them may be on it afterwards.

The fault model: what a flush has covered is on the disk. Of the writes since, each is there, is not, or is there in
some of its 512-byte sectors, in any combination.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import Layer
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice

SECTOR_BYTES = 512
BLOCK_BYTES = 4096
FATES = ("kept", "dropped", "torn")


class Write(NamedTuple):
    offset_bytes: int
    data: bytes


class RecordingDisk(Layer):
    """Remembers every write and flush, in order. A flush is recorded as None."""

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self.record: list[Write | None] = []

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.record.append(Write(offset_bytes, bytes(memoryview(buffer).cast("B"))))
        super().write_from(offset_bytes, buffer)

    def flush(self) -> None:
        self.record.append(None)
        super().flush()


def _apply(content: bytearray, write: Write) -> None:
    content[write.offset_bytes : write.offset_bytes + len(write.data)] = write.data


def some_sectors(write: Write, chance: random.Random) -> Iterator[Write]:
    for start in range(0, len(write.data), SECTOR_BYTES):
        if chance.random() < 0.5:
            yield Write(write.offset_bytes + start, write.data[start : start + SECTOR_BYTES])


def surviving(
    record: list[Write | None], cut: int, chance: random.Random, fates: Sequence[str] = FATES
) -> Iterator[Write]:
    """What is on the disk where the power went after `cut` entries of the record, each write with one of the fates."""
    flushed = max((index for index in range(cut) if record[index] is None), default=0)
    for index, entry in enumerate(record[:cut]):
        fate = "kept" if index < flushed else chance.choice(fates)
        if entry is not None and fate == "kept":
            yield entry
        elif entry is not None and fate == "torn":
            yield from some_sectors(entry, chance)


def state_after_cut(before: bytes, record: list[Write | None], cut: int, chance: random.Random) -> bytearray:
    """The disk where the power went after `cut` entries of the record."""
    content = bytearray(before)
    for write in surviving(record, cut, chance):
        _apply(content, write)
    return content


class Durable(NamedTuple):
    """What was promised when a sync returned: these files with this content, while nothing touches them."""

    position: int
    files: dict[bytes, bytes]


class Workload:
    """Does things to a filesystem and remembers what has to survive. Each file holds one letter only, so that a block
    of another file, or an old one, is seen wherever it turns up."""

    def __init__(self, disk: RecordingDisk) -> None:
        self.disk = disk
        self.fs = Ext4Filesystem.open(disk)
        self.files: dict[bytes, bytes] = {}
        self.touched: list[tuple[int, bytes]] = []
        self.promises: list[Durable] = [Durable(0, {})]

    def _touch(self, *paths: bytes) -> None:
        self.touched.extend((len(self.disk.record), path) for path in paths)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self.fs.resolve(directory), name

    def mkdir(self, path: bytes) -> None:
        parent, name = self._parent(path)
        self.fs.mkdir(parent, name, 0o755, 0, 0)

    def write(self, path: bytes, offset_bytes: int, length_bytes: int) -> None:
        self._touch(path)
        parent, name = self._parent(path)
        if path not in self.files:
            self.fs.create(parent, name, 0o644, 0, 0)
            self.files[path] = b""
        data = letter_of(path) * length_bytes
        self.fs.write(self.fs.lookup(parent, name), offset_bytes, data)
        old = self.files[path].ljust(offset_bytes, b"\0")
        self.files[path] = old[:offset_bytes] + data + old[offset_bytes + length_bytes :]

    def write_pieces(self, path: bytes, blocks: list[int]) -> None:
        """One write for each of the blocks, in this order."""
        self.write(path, 0, 0)
        ino = self.fs.resolve(path)
        data = letter_of(path) * BLOCK_BYTES
        content = bytearray(self.files[path].ljust((max(blocks) + 1) * BLOCK_BYTES, b"\0"))
        for block in blocks:
            self.fs.write(ino, block * BLOCK_BYTES, data)
            content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = data
        self.files[path] = bytes(content)

    def truncate(self, path: bytes, size_bytes: int) -> None:
        self._touch(path)
        self.fs.set_attributes(self.fs.resolve(path), size_bytes=size_bytes)
        self.files[path] = self.files[path][:size_bytes].ljust(size_bytes, b"\0")

    def unlink(self, path: bytes) -> None:
        self._touch(path)
        self.fs.unlink(*self._parent(path))
        del self.files[path]

    def rename(self, path: bytes, new_path: bytes) -> None:
        """Both names must have the same last letter, which tells what the file may hold."""
        self._touch(path, new_path)
        self.fs.rename(*self._parent(path), *self._parent(new_path))
        self.files[new_path] = self.files.pop(path)

    def sync(self) -> None:
        self.fs.fsync(ROOT_INO)
        self.promises.append(Durable(len(self.disk.record), dict(self.files)))

    def promised_at(self, cut: int) -> dict[bytes, bytes]:
        """What has to be there if the power goes after `cut` entries."""
        promise = max((each for each in self.promises if each.position <= cut), key=lambda each: each.position)
        touched = {path for position, path in self.touched if promise.position <= position <= cut}
        return {path: content for path, content in promise.files.items() if path not in touched}


def letter_of(path: bytes) -> bytes:
    return path[-1:]
