"""Making and checking a filesystem, by mke2fs and e2fsck."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

from vdisk.errors import FilesystemError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice

_FEATURES = "extents,metadata_csum,64bit,has_journal,^orphan_file"
_BLOCK_BYTES = 4096
_COPY_BYTES = 1 << 20
_HOLE = bytes(64 << 10)
_CORRECTED = 3  # e2fsck: 1, errors were corrected; 2, and whoever has it mounted must know


def make_filesystem(device_path: str, size_bytes: int, *, label: str, uuid: str) -> None:
    """Make an ext4 filesystem in the first `size_bytes` of a file that exists. Raises `FilesystemError`."""
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-m", "0", "-I", "256"]
    # Whoever makes the disk owns its root: with default_permissions nobody else could write to it.
    command += ["-E", f"root_owner={os.geteuid()}:{os.getegid()}"]
    command += ["-O", _FEATURES, "-L", label, "-U", uuid, device_path, str(size_bytes // _BLOCK_BYTES)]
    status, output = _run(command)
    if status:
        raise FilesystemError(f"mke2fs failed on {device_path}: {_last_line(output)}")


def format_device(device: BlockDevice, size_bytes: int, *, label: str, uuid: str) -> None:
    """The same on a device, by whatever drivers it has: made in memory, and copied where it is not a hole.

    The device must read as zeros. Raises `FilesystemError`, `DeviceError`.
    """
    descriptor = os.memfd_create("ghostdump-filesystem")
    try:
        os.ftruncate(descriptor, size_bytes)
        make_filesystem(f"/proc/{os.getpid()}/fd/{descriptor}", size_bytes, label=label, uuid=uuid)
        for offset_bytes, content in _pieces_of_data(descriptor):
            device.write_from(offset_bytes, content)
    finally:
        os.close(descriptor)


def _pieces_of_data(descriptor: int) -> Iterator[tuple[int, bytes]]:
    end_bytes = 0
    while (start_bytes := _seek(descriptor, end_bytes, os.SEEK_DATA)) is not None:
        end_bytes = _seek(descriptor, start_bytes, os.SEEK_HOLE) or start_bytes
        for offset_bytes in range(start_bytes, end_bytes, _COPY_BYTES):
            yield offset_bytes, os.pread(descriptor, min(_COPY_BYTES, end_bytes - offset_bytes), offset_bytes)


def _seek(descriptor: int, offset_bytes: int, to: int) -> int | None:
    """None where nothing of the kind follows."""
    try:
        return os.lseek(descriptor, offset_bytes, to)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def check_filesystem(path: str) -> None:
    """Replay the journal and repair what is safe to repair. Raises `FilesystemError` where that was not enough."""
    status, output = _run(["e2fsck", "-p", path])
    if status & ~_CORRECTED:
        raise FilesystemError(f"e2fsck -p cannot repair {path} by itself; run e2fsck -f on it: {_last_line(output)}")


def repaired(content: Buffer) -> bytes:
    """What e2fsck -p makes of the bytes of a disk, and e2fsck -fn finds clean. Raises `FilesystemError` otherwise."""
    descriptor = os.memfd_create("ghostdump-filesystem")
    try:
        view = memoryview(content).cast("B")
        os.ftruncate(descriptor, view.nbytes)
        for offset_bytes in range(0, view.nbytes, len(_HOLE)):
            piece = bytes(view[offset_bytes : offset_bytes + len(_HOLE)])
            if piece != _HOLE[: len(piece)]:  # which costs no memory
                os.pwrite(descriptor, piece, offset_bytes)
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        check_filesystem(path)
        status, output = _run(["e2fsck", "-fn", path])
        if status:
            raise FilesystemError(f"e2fsck -fn finds after e2fsck -p: {output}")
        return os.pread(descriptor, view.nbytes, 0)
    finally:
        os.close(descriptor)


def e2fsck_version() -> str:
    """Of the e2fsck that is installed. Raises `FilesystemError` where there is none."""
    return _run(["e2fsck", "-V"])[1].split()[1]


def _run(command: list[str]) -> tuple[int, str]:
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=os.environ | {"PATH": _path()}
        )
    except FileNotFoundError as error:
        raise FilesystemError(f"{command[0]} is not installed; install the package e2fsprogs") from error
    return finished.returncode, finished.stdout + finished.stderr


def _path() -> str:
    """Where to look: Debian keeps these programs where only root's PATH leads."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
