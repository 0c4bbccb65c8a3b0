"""Making a disk: an image file with ext4, a boot area, and a region of the size that its memory needs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import uuid
from typing import TYPE_CHECKING

from dumpwriter.machine.policy import largest_that_fits, simulated_estimates
from dumpwriter.machine.regionfile import ROOT, RegionFile
from dumpwriter.sizes import format_size
from vdisk import stack
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, BootArea, IncompatibleFeature, new_record
from vdisk.controller import Controller
from vdisk.errors import ImageError, UsageError
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.ext4.mkfs import format_device
from vdisk.imagefile import ImageFile, open_locked
from vdisk.keyslot import KeySlots, new_volume_key, wrap
from vdisk.registers import create_registers
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.machine.recipe import Recipe, RecipeFile
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap
    from vdisk.secret import Secret

LABEL = "ghostdump"
DISK_SIZE_BYTES_MAX = 16 << 40  # what a file can be on the filesystems that hosts have
MEMORY_SIZE_BYTES_MIN = 16 << 20
MEMORY_SIZE_BYTES_MAX = 512 << 30
FILESYSTEM_OVERHEAD_BYTES = 8 << 20
FILLER_NAME = b"filler"
SCRATCH_NAME = b".fragments"
BRICKS_PER_HOLE = 3
HOLES_SPARE_BYTES = 1 << 20  # extent blocks and directories want to live too


def create_disk(path: str, recipe: Recipe, secret: Secret = NO_KEY) -> ExtentMap:
    """Make the image file at `path`, which must not exist; the region's extents. Nothing is left behind by a failure.

    With a secret, the disk is encrypted under a new volume key that whoever has the secret can unwrap.
    The image is sparse and may be larger than what the host has free; its region may not: it is to be reserved.
    Raises `UsageError` for sizes that make no sense, `ImageError` where the host cannot hold the file.
    """
    check_sizes(recipe)
    path = os.path.abspath(path)
    check_host_space(path, recipe)
    with contextlib.ExitStack() as undo:
        with _undisturbed():  # between the file and the promise to remove it, no interrupt comes
            descriptor = _open_new(path)
            undo.callback(os.unlink, path)
        try:
            with os.fdopen(descriptor, "rb+", buffering=0) as file:
                _grow(file.fileno(), path, recipe.size_bytes)
            extents = _furnish(path, recipe, secret)
        except OSError as error:
            raise ImageError(f"cannot make {path}: {error.strerror or error}") from None
        undo.pop_all()
    return extents


def _open_new(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ImageError(f"{path} exists already: remove it, or choose another name") from None
    except OSError as error:
        raise ImageError(f"cannot make {path}: {error.strerror}") from None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold interrupts back; they come when it is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_sizes(recipe: Recipe) -> None:
    """Raises `UsageError` where disk and memory do not go together."""
    if not MEMORY_SIZE_BYTES_MIN <= recipe.memory_size_bytes <= MEMORY_SIZE_BYTES_MAX:
        raise UsageError(f"memory of {recipe.memory_size_bytes} bytes: give a size from 16MiB to 512GiB")
    for what, size_bytes in (("memory", recipe.memory_size_bytes), ("a disk", recipe.size_bytes)):
        if size_bytes % BLOCK_SIZE_BYTES:
            raise UsageError(f"{what} of {size_bytes} bytes: give a multiple of {BLOCK_SIZE_BYTES}")
    if recipe.size_bytes > DISK_SIZE_BYTES_MAX:
        raise UsageError(f"a disk of {recipe.size_bytes} bytes: give 16TiB or less")
    overhead_bytes = BOOT_AREA_SIZE_BYTES + FILESYSTEM_OVERHEAD_BYTES
    needed_bytes = _region_size_bytes(recipe) + overhead_bytes
    if recipe.size_bytes < needed_bytes:
        estimates = simulated_estimates(recipe.memory_size_bytes, recipe.parity_percent)
        fitting = largest_that_fits(estimates, recipe.size_bytes - overhead_bytes)
        less = f", or give --levels {fitting.name.lower()}" if fitting is not None else ""
        raise UsageError(
            f"a disk of {recipe.size_bytes} bytes cannot hold the dump of {recipe.memory_size_bytes} bytes of memory: "
            f"{_larger(recipe)}{less}"
        )


def _larger(recipe: Recipe) -> str:
    """Advice. What the filesystem takes for itself grows with the disk, and its journal in steps."""
    ample_bytes = (_region_size_bytes(recipe) + BOOT_AREA_SIZE_BYTES) * 23 // 20 + FILESYSTEM_OVERHEAD_BYTES
    return f"make it {-(-ample_bytes >> 20)}MiB or more" if recipe.size_bytes < ample_bytes else "make it larger"


def _region_size_bytes(recipe: Recipe) -> int:
    """What the recipe's level needs of a simulated machine's memory, and its parity."""
    return simulated_estimates(recipe.memory_size_bytes, recipe.parity_percent)[recipe.level].region_bytes


def check_host_space(path: str, recipe: Recipe) -> None:
    """Raises `ImageError` where arming could never reserve the region in the host's file."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise ImageError(f"cannot make {path}: {error.strerror}: {directory}") from None
    free_bytes = found.f_bavail * found.f_frsize
    reserved_bytes = _region_size_bytes(recipe) + BOOT_AREA_SIZE_BYTES
    if free_bytes < reserved_bytes:
        raise ImageError(
            f"the host's disk has {format_size(free_bytes)} free at {directory}, and the dump region takes "
            f"{format_size(reserved_bytes)}: free that much, or give a smaller --memory or --levels"
        )


def _grow(descriptor: int, path: str, size_bytes: int) -> None:
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError as error:
        raise ImageError(
            f"the host's filesystem cannot hold {path} of {size_bytes} bytes ({error.strerror}): give a smaller --size"
        ) from None


def _furnish(path: str, recipe: Recipe, secret: Secret) -> ExtentMap:
    key = new_volume_key() if secret else NO_KEY
    descriptor = open_locked(path)
    registers = create_registers()
    try:
        device = stack.load_live(Controller(registers, ImageFile(descriptor)), key).device
        disk_id = uuid.uuid4()
        _write_boot_area(device, recipe, disk_id, key, secret)
        format_device(device, recipe.size_bytes - BOOT_AREA_SIZE_BYTES, label=LABEL, uuid=str(disk_id))
        filesystem = Ext4Filesystem.open(device)
        try:
            extents = _make_region(filesystem, recipe)
            _put_files(filesystem, recipe)
        except BaseException:
            filesystem.abandon()
            raise
        filesystem.close()
    finally:
        os.close(registers)
        os.close(descriptor)
    return extents


def _write_boot_area(device: BlockDevice, recipe: Recipe, disk_id: uuid.UUID, key: Secret, secret: Secret) -> None:
    record = new_record(disk_id.bytes, recipe.size_bytes, recipe.memory_size_bytes, recipe.region_kind)
    record = record._replace(dump_level=recipe.level, parity_percent=recipe.parity_percent)
    if key:
        KeySlots(device).write(wrap(key, secret, disk_id.bytes))
        record = record._replace(features_incompatible=IncompatibleFeature.ENCRYPTED)
    BootArea(device).write(record)


def _make_region(filesystem: Ext4Filesystem, recipe: Recipe) -> ExtentMap:
    size_bytes = _region_size_bytes(recipe)
    with _scattered_space(filesystem, size_bytes, recipe.region_extents):
        extents = RegionFile(filesystem, recipe.region_kind).make(size_bytes)
    if extents is None:
        raise UsageError(f"the disk has no room for a dump region of {format_size(size_bytes)}: {_larger(recipe)}")
    if len(extents.extents) < recipe.region_extents:
        raise UsageError(f"the region has {len(extents.extents)} extents, not {recipe.region_extents}: use less")
    return extents


@contextlib.contextmanager
def _scattered_space(filesystem: Ext4Filesystem, size_bytes: int, pieces: int) -> Iterator[None]:
    """Leave only holes free while the region is made, each a `pieces`-th of it, with walls of a third between them."""
    if pieces == 1:
        yield
        return
    scratch = filesystem.mkdir(ROOT, SCRATCH_NAME, stat.S_IFDIR | 0o700, 0, 0).ino
    try:
        _fill_with_bricks(filesystem, scratch, _whole_blocks(size_bytes // pieces // BRICKS_PER_HOLE))
        _break_holes(filesystem, scratch, size_bytes + HOLES_SPARE_BYTES)
    except OSError as error:
        raise UsageError(
            f"cannot lay the region out in {pieces} extents ({error.strerror}): use a larger disk"
        ) from None
    yield
    for name, _ in _files_of(filesystem, scratch):
        filesystem.unlink(scratch, name)
    filesystem.rmdir(ROOT, SCRATCH_NAME)
    filesystem.commit()


def _fill_with_bricks(filesystem: Ext4Filesystem, scratch: int, brick_bytes: int) -> None:
    found = filesystem.statistics()
    for number in range(found.blocks_free * found.block_size // brick_bytes):
        try:
            _allocate(filesystem, scratch, b"%d" % number, brick_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
    _fill(filesystem, scratch, b"rest", 100)


def _break_holes(filesystem: Ext4Filesystem, scratch: int, wanted_bytes: int) -> None:
    """In the order of the disk, take three bricks away and leave the fourth, until enough is free."""
    bricks = sorted(
        (extents[0].physical_bytes, sum(extent.length_bytes for extent in extents), name)
        for name, ino in _files_of(filesystem, scratch)
        if (extents := filesystem.extents(ino))
    )
    for number, (_, length_bytes, name) in enumerate(bricks):
        if wanted_bytes > 0 and name != b"rest" and number % (BRICKS_PER_HOLE + 1) != BRICKS_PER_HOLE:
            filesystem.unlink(scratch, name)
            wanted_bytes -= length_bytes
    filesystem.commit()  # freed blocks are given out again only after the commit that frees them


def _files_of(filesystem: Ext4Filesystem, directory: int) -> list[tuple[bytes, int]]:
    return [(name, ino) for name, ino, *_ in filesystem.entries(directory, 0) if name not in (b".", b"..")]


def _whole_blocks(size_bytes: int) -> int:
    return max(1, size_bytes // BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES


def _put_files(filesystem: Ext4Filesystem, recipe: Recipe) -> None:
    for file in recipe.files:
        try:
            _put_file(filesystem, file)
        except OSError as error:
            raise UsageError(f"cannot put {file.path} on the disk: {error.strerror or error}") from None
    if recipe.fill_percent:
        filesystem.commit()
        _fill(filesystem, ROOT, FILLER_NAME, recipe.fill_percent)


def _put_file(filesystem: Ext4Filesystem, file: RecipeFile) -> None:
    owner = os.geteuid(), os.getegid()
    *directories, name = (os.fsencode(part) for part in file.path.split("/")[1:])
    parent = ROOT
    for directory in directories:
        try:
            parent = filesystem.lookup(parent, directory)
        except FileNotFoundError:
            parent = filesystem.mkdir(parent, directory, stat.S_IFDIR | 0o755, *owner).ino
    ino = filesystem.create(parent, name, stat.S_IFREG | 0o644, *owner).ino
    written_bytes = filesystem.write(ino, 0, file.content)
    if written_bytes < len(file.content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(filesystem: Ext4Filesystem, parent: int, name: bytes, percent: int) -> None:
    """One file over so much of what is free; what the filesystem keeps for its own trees stays free."""
    found = filesystem.statistics()
    size_bytes = found.blocks_free * found.block_size * percent // 100 // BLOCK_SIZE_BYTES * BLOCK_SIZE_BYTES
    ino = filesystem.create(parent, name, stat.S_IFREG | 0o600, os.geteuid(), os.getegid()).ino
    while size_bytes:
        try:
            filesystem.allocate_written(ino, size_bytes)
        except OSError:
            size_bytes -= BLOCK_SIZE_BYTES
        else:
            return


def _allocate(filesystem: Ext4Filesystem, parent: int, name: bytes, size_bytes: int) -> None:
    ino = filesystem.create(parent, name, stat.S_IFREG | 0o600, 0, 0).ino
    filesystem.allocate_written(ino, size_bytes)
