"""The kernel's table of mounts: read right, and stale mounts found and cleared."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.mounting import mounted
from vdisk.errors import MountError
from vdisk.mount import mountinfo
from vdisk.mount.attach import attached, escape_option

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
41 22 0:36 / /mnt/a\040b\134\011c rw,nosuid master:3 propagate_from:2 - fuse.ghostdump /im\040age.img rw,user_id=0
42 22 0:37 / /mnt/\303\251 rw - tmpfs none rw
43 22 0:38 / /mnt/\303\251 rw - fuse.ghostdump second rw
"""


def test_parse_with_and_without_optional_fields() -> None:
    root, odd, first, second = mountinfo.parse(_TABLE)
    assert root == ("254:0", "/", "ext4", "/dev/vda")
    assert odd == ("0:36", "/mnt/a b\\\tc", "fuse.ghostdump", "/im age.img")
    assert first.mountpoint == second.mountpoint == "/mnt/é"


def test_find_takes_the_mount_on_top(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "lower", tmp_path], check=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "upper", tmp_path], check=True)
        try:
            found = mountinfo.find(str(tmp_path))
            assert found is not None
            assert found.source == "upper"
        finally:
            subprocess.run(["umount", tmp_path], check=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert mountinfo.find(str(tmp_path)) is None


def test_resolve_follows_links_and_gives_up_on_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real")
    assert mountinfo.resolve(str(tmp_path / "one")) == str(tmp_path / "real")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(MountError, match="too many levels"):
        mountinfo.resolve(str(tmp_path / "circle"))


def test_a_dead_mount_is_stale_and_can_be_cleared(tmp_path: Path) -> None:
    path = str(tmp_path)
    with attached(path, ["rw", "subtype=ghostdump", f"fsname={escape_option('dead, image')}"]) as descriptor:
        os.close(descriptor)  # as if the process were dead, and the watcher too
        mount = mountinfo.find(path)
        assert mount is not None
        assert mount.source == "dead, image"
        assert mountinfo.is_stale(mount)
        mountinfo.clear(path)
        assert mountinfo.find(path) is None
        mountinfo.clear(path)


def test_a_living_or_stuck_mount_is_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountinfo, "PROBE_SECONDS", 0.1)
    with mounted(tmp_path) as served:
        mount = mountinfo.find(str(served.path))
        assert mount is not None
        assert not mountinfo.is_stale(mount)
        served.process.send_signal(signal.SIGSTOP)
        assert not mountinfo.is_stale(mount)
        served.process.send_signal(signal.SIGCONT)
        mountinfo.clear(str(served.path))
        assert served.is_listed()


def test_mounts_of_others_are_left_alone(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "other", tmp_path], check=True)
    try:
        mountinfo.clear(str(tmp_path))
        assert mountinfo.find(str(tmp_path)) is not None
    finally:
        subprocess.run(["umount", tmp_path], check=True)
