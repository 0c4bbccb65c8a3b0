"""docs/questions.md, typed line by line: each answer is what the commands below it show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter.cli.arguments import parse_arguments
from tests.machines import COMMAND, Machine
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (REPOSITORY / "docs" / "questions.md").read_text()
LESS = ("--cause corrupted-clones", "--cause controller-dead", "--crash-at", "--cause power-cut")  # end with code 1
REPAIRED = "e2fsck -p"  # ends with 0 or 1

# What each answer promises, by a command below it and words of what that says.
SHOWN = {
    "ghostdump drivers mnt": "dump_storahci",
    "ghostdump crash mnt --cause corrupted-clone": "the second standby wrote it",
    "ghostdump crash mnt --cause corrupted-clones": "NONE",
    "ghostdump status mnt": "digest",
    "ghostdump crash mnt --cause controller-wedged": "COMPLETE",
    "ghostdump crash mnt --cause controller-dead": "NONE",
    "tail -n 1 dmesg.txt": "storahci",
    "ghostdump rehearse mnt": "passed",
    "ghostdump status paging": "paging",
    "ghostdump mount full.img full": "NOT armed",
    "ghostdump recover full.img --output crashes": "COMPLETE",
    "ghostdump drivers secret": "dump_dumpfve",
    "ghostdump hibernate mnt": "hibernated: COMPLETE",
    "ghostdump recover disk.img --output stick": "COMPLETE",
    "ghostdump crash mnt --cause power-cut --at 40": "PARTIAL",
    "ghostdump verify disk.img": "COMPLETE",
}


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_answer_has_commands() -> None:
    for answer in PAGE.split("\n## ")[1:]:
        assert "\n```\n" in answer, answer.splitlines()[0]
    assert set(SHOWN) <= set(commands())


@pytest.mark.parametrize("line", [line for line in commands() if "ghostdump " in line])
def test_every_command_is_one(line: str) -> None:
    for found in re.findall(r"\bghostdump ([^|&;$()<>]+)", line):
        parse_arguments(shlex.split(found))


@pytest.fixture
def readers_machine(machine: Machine) -> Iterator[Machine]:
    """A machine that the reader makes; the other mounts of the page are taken away as well."""
    machine.mountpoint.rmdir()
    (machine.directory / "images").symlink_to(REPOSITORY / "images")
    yield machine
    for name in ("paging", "full", "secret"):
        machine.run("unmount", machine.directory / name, check=None)


@pytest.mark.slow
def test_the_page_can_be_typed(readers_machine: Machine) -> None:
    said: dict[str, str] = {}
    path = os.pathsep.join([os.path.dirname(COMMAND), os.environ["PATH"]])
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=readers_machine.directory,
            env={**readers_machine.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said[command] = said.get(command, "") + done.stdout
        whole = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in whole
        if not command.startswith(REPAIRED):
            assert done.returncode == any(name in command for name in LESS), whole
    assert said["ls mnt | grep -x -E 'old|new'"] in ("old\n", "new\n")
    for command, words in SHOWN.items():
        assert words in said[command], f"{command}: {said[command]}"
