"""How a mount begins and ends: refusals, readiness, unmounting from outside, death. Nothing is ever left mounted."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounting import Mounted, as_nobody, mounted, run, serve_arguments, wait_until
from vdisk.errors import MountError
from vdisk.mount import mountinfo
from vdisk.mount.attach import check_mountpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_the_table_of_mounts_names_type_and_source(tmp_path: Path) -> None:
    with mounted(tmp_path, "--source", "/images/odd, näme \\ of.img") as served:
        mount = mountinfo.find(str(served.path))
        assert mount is not None
        assert (mount.type, mount.source) == ("fuse.ghostdump", "/images/odd, näme \\ of.img")


def _unmount(served: Mounted) -> None:
    assert run("fusermount3", "-u", served.path).stderr == ""


def _umount(served: Mounted) -> None:
    assert run("umount", served.path).stderr == ""


def _terminate(served: Mounted) -> None:
    served.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [_unmount, _umount, _terminate])
def test_every_end_is_a_clean_one(tmp_path: Path, end: Callable[[Mounted], None]) -> None:
    with mounted(tmp_path) as served:
        (served.path / "kept").write_text("x")
        opened = (served.path / "gone").open("w")
        (served.path / "gone").unlink()
        opened.close()
        end(served)
        assert served.wait() == 0
        assert not served.is_listed()
        assert served.events("references") == ["{}"]


def test_termination_ends_though_a_client_is_inside(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        opened = os.open(served.path / "file", os.O_CREAT | os.O_RDWR)
        os.write(opened, b"x")
        assert served.stop() == 0
        for attempt in (lambda: os.write(opened, b"y"), lambda: os.close(opened)):
            with pytest.raises(OSError, match=r"not connected|aborted"):
                attempt()
        assert not served.is_listed()
        assert served.events("references") == ["{}"]


def test_termination_is_heard_under_load(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        command = ["sh", "-c", "while echo x > file; do read -r line < file; done 2> /dev/null"]
        with subprocess.Popen(command, cwd=served.path) as client:
            wait_until(lambda: len(served.events("open")) > 100, "the client is at work")
            assert served.stop() == 0
            client.wait(20)
        assert not served.is_listed()


def test_unmounting_writes_back_what_was_mapped(tmp_path: Path) -> None:
    with mounted(tmp_path, "--show-at-end", "file") as served:
        with (served.path / "file").open("w+b") as opened:
            opened.truncate(4096)
            with mmap.mmap(opened.fileno(), 0) as mapped:
                mapped[:6] = b"mapped"
        assert served.stop() == 0
        assert served.events("shown") == ["b'mapped'"]


def test_termination_writes_back_what_a_client_inside_has_mapped(tmp_path: Path) -> None:
    with mounted(tmp_path, "--show-at-end", "file") as served:
        descriptor = os.open(served.path / "file", os.O_CREAT | os.O_RDWR)
        os.truncate(descriptor, 4096)
        with mmap.mmap(descriptor, 0) as mapped:
            mapped[:6] = b"mapped"
            assert served.stop() == 0
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.close(descriptor)
        assert served.events("shown") == ["b'mapped'"]


def test_a_killed_process_leaves_no_mount(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        (served.path / "file").write_text("x")
        served.process.kill()
        served.process.wait()
        wait_until(lambda: not served.is_listed(), "the helper unmounts")
        assert os.listdir(served.path) == []
    with mounted(tmp_path) as served:
        assert (served.path / "pinned").exists()


def test_a_directory_renamed_under_its_mount_is_unmounted(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    with mounted(tmp_path / "parent") as served:
        (tmp_path / "parent").rename(tmp_path / "elsewhere")
        assert served.stop() == 0
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        (tmp_path / "elsewhere").rename(tmp_path / "parent")


def test_sequential_reads_come_in_large_requests(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        mount = mountinfo.find(str(served.path))
        assert mount is not None
        assert Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").read_text() == "1024\n"


class TestRefusals:
    """Each is one line that says what to do, and comes before anything is mounted."""

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(MountError, match="no such directory; create it"):
            check_mountpoint(str(tmp_path / "absent"))

    def test_not_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MountError, match="not a directory"):
            check_mountpoint(str(tmp_path / "file"))

    def test_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MountError, match="not empty"):
            check_mountpoint(str(tmp_path))

    def test_already_mounted(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as served:
            (tmp_path / "link").symlink_to("mnt")
            for path in (served.path, tmp_path / "link", tmp_path / "x" / ".." / "mnt"):
                with pytest.raises(MountError, match=r"already a mount point \(fuse.ghostdump\)"):
                    check_mountpoint(str(path))
            refused = run(*serve_arguments(served.path))
            assert refused.returncode == 1
            assert refused.stdout.startswith("error MountError")

    def test_a_stuck_mount_is_not_touched(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as served:
            served.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(MountError, match="already a mount point"):
                    check_mountpoint(str(served.path))
            finally:
                served.process.send_signal(signal.SIGCONT)

    def test_no_device(self, tmp_path: Path) -> None:
        (tmp_path / "mnt").mkdir()
        hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"]
        refused = run(*hidden, *serve_arguments(tmp_path / "mnt"))
        assert refused.stdout.startswith("error MountError /dev/fuse is missing")

    def test_no_helper(self, tmp_path: Path) -> None:
        (tmp_path / "mnt").mkdir()
        command = serve_arguments(tmp_path / "mnt")
        environment = {**os.environ, "PATH": "/nonexistent"}
        refused = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert refused.stdout == "error MountError fusermount3 is not installed; install the package fuse3\n"


class TestWithoutRoot:
    """A user who may use fusermount3 mounts in a directory of their own."""

    @pytest.fixture(autouse=True)
    def device(self) -> Iterator[None]:
        """/dev/fuse as udev makes it: for everybody."""
        device = Path("/dev/fuse")
        before = device.stat().st_mode
        device.chmod(0o666)
        yield
        device.chmod(before)

    @pytest.fixture
    def directory(self) -> Iterator[Path]:
        """A directory that others than root can reach, unlike those of pytest."""
        path = Path(tempfile.mkdtemp(dir="/var/tmp"))
        path.chmod(0o755)
        (path / "mnt").mkdir()
        os.chown(path / "mnt", 65534, 65534)
        yield path
        shutil.rmtree(path)

    def test_mount_use_and_unmount(self, directory: Path) -> None:
        with mounted(directory, "--uid", "65534") as served:
            script = f"cd {served.path} && echo content > file && cat file && ls -a && cat .ghostdump/note"
            used = run(*as_nobody(["sh", "-c", script]))
            assert used.stderr == ""
            assert used.stdout.split() == ["content", ".", "..", ".ghostdump", "file", "pinned", "empty"]
            assert "Permission denied" in run("ls", served.path).stderr
            assert run(*as_nobody(["fusermount3", "-u", str(served.path)])).stderr == ""
            assert served.wait() == 0

    def test_a_killed_process_leaves_no_mount(self, directory: Path) -> None:
        with mounted(directory, "--uid", "65534") as served:
            served.process.kill()
            served.process.wait()
            wait_until(lambda: not served.is_listed(), "the helper unmounts")

    def test_termination_with_a_client_inside(self, directory: Path) -> None:
        with (
            mounted(directory, "--uid", "65534") as served,
            subprocess.Popen(
                as_nobody(["sh", "-c", f"cd {served.path} && echo in && read line"]), stdin=-1, stdout=-1
            ) as client,
        ):
            assert client.stdout is not None
            assert client.stdout.readline() == b"in\n"
            assert served.stop() == 0
            assert not served.is_listed()

    def test_allow_other_needs_the_permission_of_fuse_conf(self, directory: Path) -> None:
        if "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
            pytest.skip("/etc/fuse.conf of this machine has user_allow_other")
        refused = run(*serve_arguments(directory / "mnt", "--uid", "65534", "--allow-other"))
        assert refused.stdout.startswith("error MountError")
        assert "user_allow_other" in refused.stdout

    def test_a_device_that_is_for_root_only(self, directory: Path) -> None:
        private = "mount -t tmpfs none /dev && mknod -m 600 /dev/fuse c 10 229"
        hidden = ["unshare", "--mount", "sh", "-c", f'{private} && exec "$@"', "sh"]
        refused = run(*hidden, *serve_arguments(directory / "mnt", "--uid", "65534"))
        assert refused.stdout.startswith("error MountError /dev/fuse is not open to you")

    def test_a_directory_of_somebody_else(self, directory: Path) -> None:
        os.chown(directory / "mnt", 0, 0)
        refused = run(*serve_arguments(directory / "mnt", "--uid", "65534"))
        assert refused.stdout.startswith("error MountError")
        assert "directory of your own" in refused.stdout
