"""The demo runs from end to end, and leaves nothing: neither at its end nor when it is interrupted in a crash."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machines import COMMAND
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([os.path.dirname(COMMAND), os.environ["PATH"]])
    process = subprocess.Popen(
        [REPOSITORY / "scripts" / "demo.sh"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PATH": path, "KEEP": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Tests that run in the background ignore interrupts, and a shell cannot trap what it was born to ignore.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)


def test_the_demo_tells_the_whole_story(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert "last crash: COMPLETE" in said
    assert said.rstrip().splitlines()[-1].startswith("demo: nothing is left")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["$ ghostdump mount", "$ ghostdump crash"])
def test_an_interrupted_demo_leaves_nothing(demo: subprocess.Popen[str], tmp_path: Path, moment: str) -> None:
    assert demo.stdout is not None
    assert any(line.startswith(moment) for line in demo.stdout)
    os.killpg(demo.pid, signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode != 0, said
    assert not list(tmp_path.iterdir())
