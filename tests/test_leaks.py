"""The guard that looks for leaks finds each kind of them, and takes it away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parent.parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and attach loop devices")


def found(home: leaks.Home, kind: str) -> list[str]:
    return [leak.target for leak in leaks.find(home) if leak.kind == kind]


def found_soon(home: leaks.Home, kind: str) -> list[str]:
    """A new process has no environment for a moment, even after its exec was reported."""
    deadline = time.monotonic() + 5
    while not (targets := found(home, kind)) and time.monotonic() < deadline:
        time.sleep(0.001)
    return targets


def test_a_quiet_machine_has_no_leak(run_home: leaks.Home) -> None:
    assert leaks.wait_for_new(run_home, set()) == set()


@contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, env=env, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_with_a_foreign_command_line_is_known_by_its_environment(run_home: leaks.Home) -> None:
    with running("sleep", "60") as process:
        assert found_soon(run_home, "process") == [str(process.pid)]
        leaks.clear(leaks.find(run_home))
        assert process.wait(timeout=5) == -signal.SIGKILL


def test_a_process_without_environment_is_known_by_its_command_line(run_home: leaks.Home, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with running("tail", "-f", str(log), env={}) as process:
        assert found_soon(run_home, "process") == [str(process.pid)]


def test_a_runtime_file(run_home: leaks.Home) -> None:
    path = run_home.runtime / "ghostdump" / "1234"
    path.parent.mkdir()
    path.touch()
    assert found(run_home, "runtime file") == [str(path)]
    leaks.clear(leaks.find(run_home))
    assert not path.exists()


def test_a_shared_runtime_file_is_ours_when_it_names_our_disk(
    run_home: leaks.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "SHARED_RUNTIME", tmp_path)
    (tmp_path / "theirs").write_text("/somewhere/disk.img")
    (tmp_path / "ours").write_text(f'{{"image": "{run_home.path}/disk.img"}}')
    assert found(run_home, "runtime file") == [str(tmp_path / "ours")]


@needs_root
def test_a_mount_even_with_a_blank_in_its_name(run_home: leaks.Home, tmp_path: Path) -> None:
    mount_point = tmp_path / "a b"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(mount_point)], check=True)
    assert found(run_home, "mount") == [str(mount_point).replace(" ", r"\040")]
    leaks.clear(leaks.find(run_home))
    assert not mount_point.is_mount()


@needs_root
def test_a_loop_device(run_home: leaks.Home, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    attach = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    assert found(run_home, "loop device") == [device]
    leaks.clear(leaks.find(run_home))
    assert leaks.wait_for_new(run_home, set()) == set()


LEAKY_TESTS = """
import subprocess
processes = []
def test_leaks(): processes.append(subprocess.Popen(["sleep", "60"]))
def test_after_it(): assert processes.pop().wait(timeout=5) == -9
"""


def test_the_guard_fails_the_test_that_leaks_and_only_that_one(tmp_path: Path) -> None:
    leaky_tests = tmp_path / "test_leaky.py"
    leaky_tests.write_text(LEAKY_TESTS)
    pytest_command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "tests.conftest", str(leaky_tests)]
    result = subprocess.run(pytest_command, cwd=REPOSITORY, capture_output=True, text=True)
    assert "2 passed, 1 error" in result.stdout
    assert "test_leaks left this behind" in result.stdout
    assert "sleep 60" in result.stdout
