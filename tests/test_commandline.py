"""The commands that messages tell of can be taken over into a shell as they stand."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from dumpwriter.commandline import command_line

if TYPE_CHECKING:
    from tests.machines import Machine


def test_words_are_quoted_and_a_locked_image_gets_its_key() -> None:
    assert command_line("mount", "my disk.img", "it's") == "ghostdump mount 'my disk.img' 'it'\"'\"'s'"
    assert command_line("verify", "disk.img", encrypted=True) == "ghostdump verify disk.img --key-file FILE"


def test_what_a_crash_tells_to_type_recovers_the_dump(machine: Machine) -> None:
    machine.image = machine.directory / "my disk's.img"
    (machine.directory / "key").write_bytes(b"key")
    machine.create("--encrypt", "--key-file", "key", size="64MiB")
    machine.mount("--key-file", "key")
    said = machine.run("crash", machine.mountpoint).stdout
    _, told = said.splitlines()[-1].split(", or ")
    given = {"DIR": "out", "FILE": "key"}
    name, *words = (given.get(word, word) for word in shlex.split(told))
    assert name == "ghostdump"
    assert machine.run(*words).stdout.startswith("COMPLETE")


def test_a_mount_point_with_a_space_is_told_as_one_word(machine: Machine) -> None:
    (machine.directory / "no machine").mkdir()
    said = machine.run("status", machine.directory / "no machine", check=1).stderr
    assert said.endswith(f"ghostdump mount IMAGE '{machine.directory / 'no machine'}'\n")
