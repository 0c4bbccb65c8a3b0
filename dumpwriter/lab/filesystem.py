"""A script carried out on a small ext4 filesystem: what it asks of the disk, write by write, and what it promised.

The free blocks and the journal of the disk hold what was there before: whoever shows or replays an old block is seen.
"""

from __future__ import annotations

import functools
import stat
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.tree import EMPTY, Kind, Node, Tree
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FilesystemError
from vdisk.ext4.filesystem import RENAME_EXCHANGE, ROOT_INO, Ext4Filesystem
from vdisk.ext4.journal import MAGIC
from vdisk.ext4.mkfs import format_device
from vdisk.layers.trace import Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.lab.script import Operation
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.trace import Event

DISK_SIZE_BYTES = 8 << 20  # mke2fs makes no journal on a smaller one
UUID = "6c616262-6f72-4174-8f72-790000000000"
STALE = b"\xa5" * BLOCK_SIZE_BYTES
XATTR = b"user.lab"
DECOY = MAGIC.to_bytes(4, "big") + b"-" * 100  # too long for an inode, so it has a block, which is journalled


class History(NamedTuple):
    """`moments[n]` is the tree after n operations. `steps` has for each event the operation that asked for it.

    `syncs` are pairs: from this number of events on, what so many operations did is there after any crash.
    """

    before: bytes
    trace: tuple[Event, ...]
    steps: tuple[int, ...]
    moments: tuple[Tree, ...]
    syncs: tuple[tuple[int, int], ...]

    def allowed(self, end_event: int) -> Sequence[Tree]:
        """What may be there where the power goes with the writes of an epoch in flight: from the last sync on.

        Any of them may be lost as late as just before the flush, so a sync that returned by then counts.
        """
        synced = max(operations for event, operations in self.syncs if event <= end_event)
        reached = self.steps[end_event - 1] + 1 if end_event else 0
        return self.moments[synced : max(synced, reached) + 1]


@functools.cache
def used_disk() -> bytes:
    """A filesystem without files, on a disk where there were some."""
    disk = MemoryDisk(DISK_SIZE_BYTES)
    format_device(disk, DISK_SIZE_BYTES, label="laboratory", uuid=UUID)
    filesystem = Ext4Filesystem.open(disk)
    ino = filesystem.create(ROOT_INO, b"stale", stat.S_IFREG | 0o600, 0, 0).ino
    filesystem.write(ino, 0, STALE * (DISK_SIZE_BYTES // BLOCK_SIZE_BYTES))
    filesystem.commit()
    filesystem.unlink(ROOT_INO, b"stale")
    filesystem.close()
    return bytes(disk.content)


def record(script: Sequence[Operation]) -> History:
    """Carry it out. At the end the filesystem is left as a crash leaves it."""
    disk = MemoryDisk(DISK_SIZE_BYTES, used_disk())
    trace: list[Event] = []
    steps: list[int] = []
    moments, syncs = [EMPTY], [(0, 0)]

    def observe(event: Event) -> None:
        trace.append(event)
        steps.append(len(moments) - 1)

    performer = Performer(Trace(disk, observe))
    for operation in script:
        is_sync = performer.perform(len(moments), operation)
        moments.append(performer.tree)
        if is_sync:
            syncs.append((len(trace), len(moments) - 1))
    return History(used_disk(), tuple(trace), tuple(steps), tuple(moments), tuple(syncs))


class Performer:
    """Does an operation to the filesystem first. Only where that is not refused, it is done to the tree too."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._filesystem = Ext4Filesystem.open(device)
        self._number = 0
        self.tree = EMPTY

    def perform(self, number: int, operation: Operation) -> bool:
        """Whether all that was done so far is durable now. Raises `FilesystemError` where the filesystem failed."""
        self._number = number
        try:
            PERFORM[operation.verb](self, *operation.paths, *operation.numbers)
        except OSError:
            if self._filesystem.failure:
                raise FilesystemError(f"{operation}: {self._filesystem.failure}") from None
            return False
        return operation.verb in SYNCS

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self._filesystem.resolve(directory), name

    def _file(self, path: bytes) -> tuple[int, int, Node]:
        """The inode, the number in the tree, and what it holds there; made where it is missing."""
        if path not in self.tree.names:
            self.create(path)
        number = self.tree.names[path]
        return self._filesystem.resolve(path), number, self.tree.nodes[number]

    def _add(self, path: bytes, node: Node) -> None:
        self.tree = self.tree.with_name(path, self._number).with_node(self._number, node)

    def create(self, path: bytes) -> None:
        self._filesystem.create(*self._parent(path), stat.S_IFREG | 0o600, 0, 0)
        self._add(path, Node(Kind.FILE))

    def mkdir(self, path: bytes) -> None:
        self._filesystem.mkdir(*self._parent(path), stat.S_IFDIR | 0o700, 0, 0)
        self._add(path, Node(Kind.DIRECTORY))

    def symlink(self, path: bytes, target: bytes) -> None:
        self._filesystem.symlink(*self._parent(path), target, 0, 0)
        self._add(path, Node(Kind.SYMLINK, target))

    def decoy(self, path: bytes) -> None:
        self.symlink(path, DECOY)

    def write(self, path: bytes, offset_bytes: int, length_bytes: int) -> None:
        ino, number, node = self._file(path)
        data = _content(number, self._number, offset_bytes, length_bytes)
        done_bytes = self._filesystem.write(ino, offset_bytes, data)
        if done_bytes:
            before = node.content[:offset_bytes].ljust(offset_bytes, b"\0")
            content = before + data[:done_bytes] + node.content[offset_bytes + done_bytes :]
            self.tree = self.tree.with_node(number, node._replace(content=content))

    def append(self, path: bytes, length_bytes: int) -> None:
        self.write(path, len(self._file(path)[2].content), length_bytes)

    def truncate(self, path: bytes, size_bytes: int) -> None:
        ino, number, node = self._file(path)
        self._filesystem.set_attributes(ino, size_bytes=size_bytes)
        content = node.content[:size_bytes].ljust(size_bytes, b"\0")
        self.tree = self.tree.with_node(number, node._replace(content=content))

    def xattr(self, path: bytes, size_bytes: int) -> None:
        ino, number, node = self._file(path)
        value = _content(number, self._number, 0, size_bytes)
        self._filesystem.xattr_set(ino, XATTR, value)
        self.tree = self.tree.with_node(number, node._replace(xattrs=((XATTR, value),)))

    def rename(self, path: bytes, to: bytes) -> None:
        self._filesystem.rename(*self._parent(path), *self._parent(to))
        self.tree = self.tree.moved(path, to)

    def exchange(self, path: bytes, other: bytes) -> None:
        self._filesystem.rename(*self._parent(path), *self._parent(other), RENAME_EXCHANGE)
        self.tree = self.tree.exchanged(path, other)

    def link(self, path: bytes, to: bytes) -> None:
        self._filesystem.link(self._filesystem.resolve(path), *self._parent(to))
        self.tree = self.tree.with_name(to, self.tree.names[path])

    def unlink(self, path: bytes) -> None:
        self._filesystem.unlink(*self._parent(path))
        self.tree = self.tree.without(path)

    def rmdir(self, path: bytes) -> None:
        self._filesystem.rmdir(*self._parent(path))
        self.tree = self.tree.without(path)

    def hold(self, path: bytes) -> None:
        self._filesystem.acquire(self._filesystem.resolve(path))

    def fsync(self, path: bytes) -> None:
        self._filesystem.fsync(self._filesystem.resolve(path))

    def sync(self) -> None:
        self._filesystem.commit()

    def reopen(self) -> None:
        self._filesystem.close()
        self._filesystem = Ext4Filesystem.open(self._device)


PERFORM: dict[str, Callable[..., None]] = {
    "create": Performer.create,
    "mkdir": Performer.mkdir,
    "write": Performer.write,
    "append": Performer.append,
    "truncate": Performer.truncate,
    "rename": Performer.rename,
    "exchange": Performer.exchange,
    "link": Performer.link,
    "symlink": Performer.symlink,
    "decoy": Performer.decoy,
    "xattr": Performer.xattr,
    "unlink": Performer.unlink,
    "rmdir": Performer.rmdir,
    "hold": Performer.hold,
    "fsync": Performer.fsync,
    "sync": Performer.sync,
    "reopen": Performer.reopen,
}
SYNCS = ("fsync", "sync", "reopen")


def _content(node: int, operation: int, offset_bytes: int, length_bytes: int) -> bytes:
    """Sixteen bytes, over and over, that say whose they are, since when, and of which block of the file."""
    first, end = offset_bytes // BLOCK_SIZE_BYTES, -(-(offset_bytes + length_bytes) // BLOCK_SIZE_BYTES)
    blocks = (b"%04d.%05d.%05d" % (node, operation, block) * (BLOCK_SIZE_BYTES // 16) for block in range(first, end))
    start_bytes = offset_bytes - first * BLOCK_SIZE_BYTES
    return b"".join(blocks)[start_bytes : start_bytes + length_bytes]


def read_tree(disk: bytes) -> Tree:
    """All that a clean filesystem holds. Raises `FilesystemError`, `OSError` where it does not open or read."""
    filesystem = Ext4Filesystem.open(MemoryDisk(len(disk), disk))
    names: dict[bytes, int] = {}
    nodes: dict[int, Node] = {}
    directories = [(b"", ROOT_INO)]
    for prefix, directory in directories:
        for name, ino, *_ in list(filesystem.entries(directory, 0)):
            if name not in (b".", b".."):
                names[prefix + name] = ino
                nodes[ino] = _read_node(filesystem, ino)
                if nodes[ino].kind == Kind.DIRECTORY:
                    directories.append((prefix + name + b"/", ino))
    return Tree(names, nodes)


def _read_node(filesystem: Ext4Filesystem, ino: int) -> Node:
    attributes = filesystem.attributes(ino)
    xattrs = tuple((name, filesystem.xattr_get(ino, name)) for name in filesystem.xattr_list(ino))
    if stat.S_ISDIR(attributes.mode):
        return Node(Kind.DIRECTORY, b"", xattrs)
    if stat.S_ISLNK(attributes.mode):
        return Node(Kind.SYMLINK, filesystem.readlink(ino), xattrs)
    return Node(Kind.FILE, bytes(filesystem.read(ino, 0, attributes.size_bytes)), xattrs)
