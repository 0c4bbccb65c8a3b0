"""Attributes as pyfuse3 wants them, and the two numberings of inodes.

FUSE calls the root 1 and ext4 calls it 2; ext4's inode 1, the list of bad blocks, is never shown. So the two roots are
swapped for each other, and every other number is the same on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyfuse3

from vdisk.filesystem import ROOT_INODE

if TYPE_CHECKING:
    from vdisk.filesystem import Attributes, Statistics

CACHED_SECONDS = 86_400.0  # we are the only ones who change the disk, so what the kernel has cached stays true


def node_of(ino: int) -> int:
    """The kernel's number of an ext4 inode."""
    return pyfuse3.ROOT_INODE if ino == ROOT_INODE else ino


def entry_of(attributes: Attributes) -> pyfuse3.EntryAttributes:
    """The attributes of an inode, to be cached for a long time."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node_of(attributes.ino)
    entry.generation = attributes.generation
    entry.entry_timeout = entry.attr_timeout = CACHED_SECONDS
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size_bytes
    entry.st_blocks = attributes.blocks_512
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    return entry


def absent_entry() -> pyfuse3.EntryAttributes:
    """The answer that lets the kernel remember that there is no such name."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = CACHED_SECONDS
    return entry


def statvfs_of(statistics: Statistics) -> pyfuse3.StatvfsData:
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = statistics.block_size
    data.f_blocks = statistics.blocks
    data.f_bfree = statistics.blocks_free
    data.f_bavail = statistics.blocks_available
    data.f_files = statistics.files
    data.f_ffree = data.f_favail = statistics.files_free
    data.f_namemax = statistics.name_max
    return data
