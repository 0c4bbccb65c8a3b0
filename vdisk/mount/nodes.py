"""What the kernel knows of the filesystem: which inodes it refers to, and under which name it met them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from vdisk.filesystem import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.filesystem import Filesystem

_DEPTH_MAX = 2048  # of names in a path; a damaged directory may contain its own ancestor


class _Place(NamedTuple):
    parent: int
    name: bytes


class NodeTable:
    """Counts of the kernel's references. An inode with any is held in the filesystem, so that it survives an unlink."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self._references: dict[int, int] = {}
        self._places: dict[int, _Place] = {}

    def refer(self, ino: int, parent: int, name: bytes) -> None:
        """Count one more reference, met under this name."""
        count = self._references.get(ino, 0)
        if not count:
            self._filesystem.acquire(ino)
        self._references[ino] = count + 1
        self._places[ino] = _Place(parent, name)

    def forget(self, ino: int, count: int) -> bool:
        """Take references away; tell whether these were the last."""
        left = self._references.get(ino, 0) - count
        if left > 0:
            self._references[ino] = left
            return False
        if self._references.pop(ino, 0):
            del self._places[ino]
            self._filesystem.release(ino)
        return True

    def references(self) -> list[tuple[int, int]]:
        """(inode, count) of all that the kernel refers to."""
        return list(self._references.items())

    def rename(self, ino: int, parent: int, name: bytes) -> None:
        """Note the new name of an inode, where the kernel knows it."""
        if ino in self._places:
            self._places[ino] = _Place(parent, name)

    def path(self, ino: int) -> bytes:
        """The path under which the kernel last met an inode, for a log. It may have been unlinked since."""
        names = list(itertools.islice(self._names_upwards(ino), _DEPTH_MAX))
        return b"/" + b"/".join(reversed(names))

    def _names_upwards(self, ino: int) -> Iterator[bytes]:
        while ino != ROOT_INODE and (place := self._places.get(ino)):
            yield place.name
            ino = place.parent
