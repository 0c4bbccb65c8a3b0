"""The region inside the filesystem: one file whose blocks are promised to the dump writer."""

from __future__ import annotations

import contextlib
import errno
import stat
from typing import TYPE_CHECKING, Protocol

from vdisk.bootarea import EXTENT_COUNT_MAX, RegionKind
from vdisk.errors import ArmingError, FilesystemError, FormatError
from vdisk.extent import Extent, ExtentMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vdisk.filesystem import Attributes

NAMES = {RegionKind.DEDICATED: "dump.bin", RegionKind.PAGEFILE: "pagefile.sys"}
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


class RegionFile:
    """The region's file in the root of a filesystem. What else the region is for gives it its name."""

    def __init__(self, filesystem: RegionFilesystem, kind: RegionKind) -> None:
        self._filesystem = filesystem
        self._name = NAMES[kind].encode()
        self.path = f"/{NAMES[kind]}"

    def prepare(self, size_bytes: int) -> ExtentMap:
        """Make sure that the region is there with at least the size asked for, durable, and pinned; its extents.

        A region that others made unfit (holes, unwritten extents, another kind of file) is made anew. One that is only
        too small is kept where the filesystem has no room for a larger one: a smaller dump is a dump.
        Raises `ArmingError` where there can be no region.
        """
        with self._explained():
            return self._settle(self._fit(size_bytes), size_bytes)

    def prepare_anew(self, size_bytes: int) -> ExtentMap:
        """As `prepare`, in new blocks where there is room for a second file: the old ones keep what was in them."""
        with self._explained():
            return self._settle(self.make(size_bytes) or self._fit(size_bytes), size_bytes)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What stands in the way on the disk (a directory of that name, …) is an `ArmingError` too."""
        try:
            yield
        except OSError as error:
            raise ArmingError(
                f"cannot make the dump region: {error.strerror or error}; remove {self.path} and {self.path}.new"
            ) from None

    def _fit(self, size_bytes: int) -> ExtentMap | None:
        extents = self.extents()
        if extents is None:
            self._remove(self._name)
        if extents is None or extents.size_bytes < size_bytes:
            extents = self.make(size_bytes) or extents
        return extents

    def _settle(self, extents: ExtentMap | None, size_bytes: int) -> ExtentMap:
        if extents is None:
            raise ArmingError(f"no room for a dump region of {size_bytes} bytes: free that much and mount again")
        self._filesystem.commit()
        self.pin()
        return extents

    def pin(self) -> None:
        """Keep its blocks, if it is there, from everybody else: for a dump to come, or one still in it."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.pin(self._filesystem.lookup(ROOT, self._name))

    def unpin(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.unpin(self._filesystem.lookup(ROOT, self._name))

    def extents(self) -> ExtentMap | None:
        """Where it lies now; None where it is gone, or cannot serve.

        What is written beneath a hole or an unwritten extent is never seen again through the filesystem. Raises
        `ArmingError` where it claims what is not its own: that must neither be written to nor freed.
        """
        try:
            ino = self._filesystem.lookup(ROOT, self._name)
            is_file = stat.S_ISREG(self._filesystem.attributes(ino).mode)
            extents = ExtentMap(self._filesystem.extents(ino)) if is_file else None
        except FileNotFoundError:
            return None
        except (FilesystemError, FormatError):
            return None
        except OSError as error:
            if error.errno != errno.EUCLEAN:
                raise
            raise ArmingError(
                f"{self.path} is damaged ({error.strerror}): unmount, and run e2fsck -f on the image"
            ) from error
        if extents is None or not extents.extents or len(extents.extents) > EXTENT_COUNT_MAX:
            return None
        return extents

    def make(self, size_bytes: int) -> ExtentMap | None:
        """Allocate beside the old region, then take its name; None where there is no room."""
        unfinished = self._name + b".new"
        self._remove(unfinished)
        try:
            ino = self._filesystem.create(ROOT, unfinished, stat.S_IFREG | 0o600, 0, 0).ino
            self._filesystem.allocate_written(ino, size_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._remove(unfinished)
            return None
        self._filesystem.rename(ROOT, unfinished, ROOT, self._name)
        return self.extents()

    def _remove(self, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.unlink(ROOT, name)
