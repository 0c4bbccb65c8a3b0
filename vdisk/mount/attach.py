"""Attach and detach: get a FUSE connection from fusermount3 and put it at a directory.

libfuse would do this, but print to stderr what a user must know, leave its fusermount3 behind for as long as the
process lives, and take option values in ASCII only. The protocol is small: the helper mounts, sends the descriptor of
/dev/fuse over the socket named in `_FUSE_COMMFD`, and, with `auto_unmount`, stays to unmount when the socket closes. So
no death of ours leaves a mount behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING

from vdisk.errors import MountError
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_SECONDS = 10.0


def check_mountpoint(path: str) -> str:
    """Return the path to mount at, absolute and without symbolic links. Raises MountError where it will not do.

    The table of mounts is asked before the place is touched: a dead mount there would hang whoever touches it.
    """
    path = mountinfo.resolve(path)
    if mounted := mountinfo.find(path):
        raise MountError(f"{path}: is already a mount point ({mounted.type}); unmount it first")
    try:
        empty = not os.listdir(path)
    except FileNotFoundError:
        raise MountError(f"{path}: no such directory; create it with mkdir") from None
    except NotADirectoryError:
        raise MountError(f"{path}: not a directory; name an empty directory to mount on") from None
    except PermissionError:
        raise MountError(f"{path}: permission denied; name a directory of your own") from None
    if not empty:
        raise MountError(f"{path}: not empty, and the mount would hide what is in it; name an empty directory")
    if not os.access(path, os.W_OK):
        raise MountError(f"{path}: not writable by you, so fusermount3 refuses it; name a directory of your own")
    return path


@contextlib.contextmanager
def attached(mountpoint: str, options: list[str]) -> Iterator[int]:
    """Mount at a checked place; yield the descriptor of the connection, which the caller closes. Raises MountError.

    At the end the helper is gone, and the mount with it.
    """
    ours, theirs = socket.socketpair()
    complaint = os.memfd_create("complaint")
    try:
        with ours:
            with theirs:
                helper = _start_helper(mountpoint, options, theirs.fileno(), complaint)
            try:
                ours.settimeout(_ANSWER_SECONDS)
                yield _receive_descriptor(ours) or _fail(mountpoint, os.pread(complaint, 4096, 0))
            finally:
                ours.close()
                helper.wait()
    finally:
        os.close(complaint)


def escape_option(value: str) -> str:
    """Guard the commas and backslashes of an option's value, as fusermount3 reads them."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _start_helper(mountpoint: str, options: list[str], socket_fd: int, complaint_fd: int) -> subprocess.Popen[bytes]:
    if not os.path.exists("/dev/fuse"):
        raise MountError(
            "/dev/fuse is missing; load the kernel's fuse module (modprobe fuse) or give the container the device"
        )
    try:
        return subprocess.Popen(
            ["fusermount3", "-o", ",".join([*options, "auto_unmount"]), "--", mountpoint],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint_fd,
            env={**os.environ, "_FUSE_COMMFD": str(socket_fd), "LC_ALL": "C"},
            pass_fds=[socket_fd],
        )
    except FileNotFoundError:
        raise MountError("fusermount3 is not installed; install the package fuse3") from None


def _receive_descriptor(ours: socket.socket) -> int | None:
    """The descriptor that the helper sends, or None where it ended without."""
    try:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    except TimeoutError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors[0] if descriptors else None


def _fail(mountpoint: str, complaint: bytes) -> int:
    text = complaint.decode(errors="replace").strip().removeprefix("fusermount3: ").replace("\n", "; ")
    raise MountError(f"{mountpoint}: cannot be mounted: {text or 'fusermount3 gave no reason'}")
