"""The region inside the filesystem: one file whose blocks are promised to the dump writer."""

from __future__ import annotations

import contextlib
import errno
import stat
from typing import TYPE_CHECKING, Protocol

from vdisk.bootarea import EXTENT_COUNT_MAX
from vdisk.errors import ArmingError, FilesystemError, FormatError
from vdisk.extent import Extent, ExtentMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdisk.filesystem import Attributes

REGION_NAME = b"dump.bin"
REGION_PATH = "/dump.bin"
ROOT = 2


class RegionFilesystem(Protocol):
    """What arming asks of the filesystem."""

    def lookup(self, parent: int, name: bytes, /) -> int: ...
    def attributes(self, ino: int, /) -> Attributes: ...
    def create(self, parent: int, name: bytes, mode: int, uid: int, gid: int, /) -> Attributes: ...
    def unlink(self, parent: int, name: bytes, /) -> None: ...
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, /) -> None: ...
    def allocate_written(self, ino: int, size_bytes: int, /) -> None: ...
    def extents(self, ino: int, /) -> Sequence[Extent]: ...
    def pin(self, ino: int, /) -> None: ...
    def unpin(self, ino: int, /) -> None: ...
    def commit(self) -> None: ...


def prepare_region(filesystem: RegionFilesystem, size_bytes: int) -> ExtentMap:
    """As `_prepare`; what stands in the way on the disk (a directory of that name, …) is an `ArmingError` too."""
    try:
        return _prepare(filesystem, size_bytes)
    except OSError as error:
        raise ArmingError(
            f"cannot make the dump region: {error.strerror or error}; remove {REGION_PATH} and {REGION_PATH}.new"
        ) from None


def _prepare(filesystem: RegionFilesystem, size_bytes: int) -> ExtentMap:
    """Make sure that the region is there with at least the size asked for, durable, and pinned; its extents.

    A region that others made unfit (holes, unwritten extents, another kind of file) is made anew. One that is only too
    small is kept where the filesystem has no room for a larger one: a smaller dump is a dump.
    Raises `ArmingError` where there can be no region.
    """
    extents = current_extents(filesystem)
    if extents is None:
        _remove(filesystem, REGION_NAME)
    if extents is None or extents.size_bytes < size_bytes:
        extents = make_region(filesystem, size_bytes) or extents
    if extents is None:
        raise ArmingError(f"no room for a dump region of {size_bytes} bytes: free that much and mount again")
    filesystem.commit()
    pin_region(filesystem)
    return extents


def pin_region(filesystem: RegionFilesystem) -> None:
    """Keep the blocks of the region, if there is one, from everybody else: for a dump to come, or one still in it."""
    with contextlib.suppress(FileNotFoundError):
        filesystem.pin(filesystem.lookup(ROOT, REGION_NAME))


def unpin_region(filesystem: RegionFilesystem) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.unpin(filesystem.lookup(ROOT, REGION_NAME))


def current_extents(filesystem: RegionFilesystem) -> ExtentMap | None:
    """Where the region lies now; None where it is gone, or cannot serve.

    What is written beneath a hole or an unwritten extent is never seen again through the filesystem. Raises
    `ArmingError` where it claims what is not its own: that must neither be written to nor freed.
    """
    try:
        ino = filesystem.lookup(ROOT, REGION_NAME)
        extents = ExtentMap(filesystem.extents(ino)) if stat.S_ISREG(filesystem.attributes(ino).mode) else None
    except FileNotFoundError:
        return None
    except (FilesystemError, FormatError):
        return None
    except OSError as error:
        if error.errno != errno.EUCLEAN:
            raise
        raise ArmingError(
            f"{REGION_PATH} is damaged ({error.strerror}): unmount, and run e2fsck -f on the image"
        ) from error
    if extents is None or not extents.extents or len(extents.extents) > EXTENT_COUNT_MAX:
        return None
    return extents


def make_region(filesystem: RegionFilesystem, size_bytes: int) -> ExtentMap | None:
    """Allocate beside the old region, then take its name; None where there is no room."""
    unfinished = REGION_NAME + b".new"
    _remove(filesystem, unfinished)
    try:
        ino = filesystem.create(ROOT, unfinished, stat.S_IFREG | 0o600, 0, 0).ino
        filesystem.allocate_written(ino, size_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _remove(filesystem, unfinished)
        return None
    filesystem.rename(ROOT, unfinished, ROOT, REGION_NAME)
    return current_extents(filesystem)


def _remove(filesystem: RegionFilesystem, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.unlink(ROOT, name)
