"""docs/tutorial.md, typed line by line: every command does what the page says. And the disks of docs/how-to.md."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machines import COMMAND
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from tests.machines import Machine

TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text()
DISKS_OF_RECIPES = re.findall(
    r"^ghostdump create (disk.img --size .*)", (REPOSITORY / "docs" / "how-to.md").read_text(), re.MULTILINE
)
PREPARES = ("make ", "export ", "sudo ")  # done by whoever runs the tests
REFUSED = "rm -f mnt/dump.bin"


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if not line.startswith(PREPARES)]


def test_the_tutorial_can_be_typed(machine: Machine) -> None:
    machine.mountpoint.rmdir()  # the reader makes it
    path = os.pathsep.join([os.path.dirname(COMMAND), os.environ["PATH"]])
    said = {}
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=machine.directory,
            env={**machine.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == (command == REFUSED), f"{command}: {done.stdout}{done.stderr}"
        said[command] = done.stdout
    assert "driver touched freed memory" in said["tail -n 2 dmesg.txt"].splitlines()[-1]
    assert said["ls mnt/var/crash/1"].split() == [
        "report.json",
        "secondary.events.log",
        "secondary.machine.json",
        "vmcore",
    ]
    assert "armed" in said["ghostdump status mnt"]
    assert not machine.image.exists()


@pytest.mark.parametrize("arguments", DISKS_OF_RECIPES)
def test_the_disks_of_the_recipes_can_be_made(machine: Machine, arguments: str) -> None:
    (machine.directory / "disk.key").write_bytes(b"key")
    machine.run("create", *arguments.split())
