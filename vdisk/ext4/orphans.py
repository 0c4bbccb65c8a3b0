"""The orphan list on the disk: inodes that e2fsck or the kernel has to end after a power cut.

An inode is on it while no name leads to it but somebody holds it, or its blocks are being freed in several commits.
The list is chained through i_dtime from s_last_orphan on: https://docs.kernel.org/filesystems/ext4/orphan.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdisk.ext4.volume import Volume


class OrphanList:
    """`inos` runs from the end of the list to its head. Changes are made within an operation."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.inos: list[int] = []

    def add(self, ino: int) -> None:
        self.inos.append(ino)
        self._chain(ino, self._volume.superblock.s_last_orphan)
        self._volume.superblock.s_last_orphan = ino

    def remove(self, ino: int) -> None:
        place = self.inos.index(ino)
        following = self._volume.inode(ino).i_dtime
        if place == len(self.inos) - 1:
            self._volume.superblock.s_last_orphan = following
        else:
            self._chain(self.inos[place + 1], following)
        del self.inos[place]
        self._chain(ino, 0)

    def _chain(self, ino: int, following: int) -> None:
        self._volume.inode(ino).i_dtime = following
        self._volume.store(ino)
