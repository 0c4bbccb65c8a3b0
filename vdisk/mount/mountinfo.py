"""The kernel's table of mounts: find a mount without touching it, and take away one whose process is dead.

A dead FUSE mount answers some calls from a cache and others with ENOTCONN, and one whose process is alive but stuck
does not answer at all. So the questions here are put to /proc/self/mountinfo (proc_pid_mountinfo(5)) first.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import subprocess
from typing import NamedTuple

from vdisk.errors import MountError

TYPE = "fuse.ghostdump"
PROBE_SECONDS = 2.0
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo. `device` is the kernel's major:minor; `source` is the image for a mount of ours."""

    device: str
    mountpoint: str
    type: str
    source: str


def parse(table: bytes) -> list[Mount]:
    """Parse the text of mountinfo, in the kernel's order: of two at one place the later hides the earlier."""
    return [_parse_line(line) for line in table.split(b"\n") if line]  # not splitlines: names hold \r


def _parse_line(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    _, _, device, _, mountpoint = before.split(b" ")[:5]
    kind, source = after.split(b" ")[:2]
    return Mount(device.decode(), _unescape(mountpoint), kind.decode(), _unescape(source))


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def mounts() -> list[Mount]:
    """All mounts of this process's namespace."""
    with open("/proc/self/mountinfo", "rb") as table:
        return parse(table.read())


def find(mountpoint: str) -> Mount | None:
    """The mount that is on top at a place, of any type. The path must be absolute and free of symbolic links."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == mountpoint), None)


def find_again(known: Mount) -> Mount | None:
    """The same mount, wherever it stands by now: a directory can be renamed under its mount."""
    return next((mount for mount in mounts() if mount._replace(mountpoint=known.mountpoint) == known), None)


def resolve(path: str) -> str:
    """Make a path absolute and free of symbolic links, without touching what is mounted at its end."""
    path = os.path.abspath(path)
    for _ in range(40):
        parent, name = os.path.split(path)
        path = os.path.join(os.path.realpath(parent), name)
        if find(path) or not os.path.islink(path):
            return path
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    raise MountError(f"{path}: too many levels of symbolic links; name the directory itself")


def is_stale(mount: Mount) -> bool:
    """Whether the process behind a mount of ours is dead. One that is merely stuck is not stale."""
    return mount.type == TYPE and os.strerror(errno.ENOTCONN) in _complaint_of_statfs(mount.mountpoint)


def _complaint_of_statfs(path: str) -> str:
    """What stat(1) says of a filesystem, or nothing where it does not answer in time.

    A child asks, because a call into a stuck mount cannot be ended by anybody, not even by SIGKILL.
    """
    complaint = os.memfd_create("complaint")
    try:
        child = os.posix_spawnp(
            "stat",
            ["stat", "--file-system", "--format=", "--", path],
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, complaint, 2),
            ],
        )
        return os.pread(complaint, 4096, 0).decode(errors="replace") if _ended(child) else ""
    finally:
        os.close(complaint)


def _ended(child: int) -> bool:
    """Wait a while for a child; kill it and leave it behind where it does not end."""
    pidfd = os.pidfd_open(child)
    try:
        if select.select([pidfd], [], [], PROBE_SECONDS)[0]:
            os.waitpid(child, 0)
            return True
        os.kill(child, signal.SIGKILL)
        return False
    finally:
        os.close(pidfd)


def clear(mountpoint: str) -> None:
    """Detach every dead mount of ours from a place. Raises MountError where one stays."""
    while (mount := find(mountpoint)) and is_stale(mount):
        detach(mount)


def detach(mount: Mount) -> None:
    """Unmount lazily: the place is free at once, whoever still has files open there. Raises MountError."""
    complaint = unmount(mount.mountpoint, "-z")
    if find_again(mount):
        raise MountError(f"{mount.mountpoint}: cannot be unmounted ({complaint}); run umount -l on it as root")


def fusermount() -> str:
    """The path of fusermount3. Raises MountError where it is not installed.

    Found here and not by the child: between vfork and exec it would hold us up, and PATH may lead through our mount.
    """
    path = shutil.which("fusermount3")
    if path is None:
        raise MountError("fusermount3 is not installed; install the package fuse3")
    return path


def unmount(mountpoint: str, *flags: str) -> str:
    """Run `fusermount3 -u` and return its complaint, if any. Raises MountError where it is not installed."""
    done = subprocess.run([fusermount(), "-u", *flags, "--", mountpoint], capture_output=True, check=False)
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""
