"""Attach: get a FUSE connection from fusermount3, put it at a directory, and see that it never stays there alone.

libfuse would do this, but it prints to stderr what a user must know and takes option values in ASCII only; and its
`auto_unmount`, in the fusermount3 of Debian 12, unmounts nothing for a user without root. The protocol is small: the
helper mounts and sends the descriptor of /dev/fuse over the socket named in `_FUSE_COMMFD`. Beside it a watcher, a
shell that waits for the end of a pipe, unmounts when we die without having done so.
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

# Only a dead mount is taken away: in the meantime somebody may have cleared it and mounted anew.
_WATCHER = """
read -r _
if stat --file-system -- "$1" 2>&1 | grep -q -e "not connected" -e "connection abort"
then exec fusermount3 -u -z -- "$1"
fi
"""


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

    When the connection is closed at the end, nothing is mounted any more; nor is it when this process dies before.
    """
    _check_device()
    with _watched(mountpoint):
        yield _connect(mountpoint, options)


@contextlib.contextmanager
def _watched(mountpoint: str) -> Iterator[None]:
    """Keep a watcher beside us: its standard input ends when we do, and then it takes a dead mount away."""
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHER, "ghostdump-watcher", mountpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,  # the Ctrl-C that ends us must not end it
        cwd="/",
    )
    try:
        yield
    finally:
        watcher.communicate()


def escape_option(value: str) -> str:
    """Guard the commas and backslashes of an option's value, as fusermount3 reads them."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _check_device() -> None:
    if not os.path.exists("/dev/fuse"):
        raise MountError("/dev/fuse is missing; run modprobe fuse, or give the container the device")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountError("/dev/fuse is not open to you; run chmod 666 /dev/fuse as root")


def _connect(mountpoint: str, options: list[str]) -> int:
    """Run the helper and receive the descriptor that it sends. Raises MountError with its complaint."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [mountinfo.fusermount(), "-o", ",".join(options), "--", mountpoint],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
        )
        if done.returncode:
            complaint = done.stderr.decode(errors="replace").strip().removeprefix("fusermount3: ").replace("\n", "; ")
            raise MountError(f"{mountpoint}: cannot be mounted: {complaint}")
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(descriptor, False)
    return descriptor
