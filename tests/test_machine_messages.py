"""What the command line says of odd arguments and of odd ends: what it is, and where to go from here."""

from __future__ import annotations

import argparse
import os
import signal
from typing import TYPE_CHECKING

import pytest

from dumpwriter.cli import arguments
from dumpwriter.cli.show import describe_dump
from tests.sealed import write_keys
from tests.test_machine_refusals import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machines import Machine


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of the command and of all commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)


def test_every_argument_has_a_help_text() -> None:
    (commands,) = [found for found in arguments._parser()._actions if isinstance(found, argparse._SubParsersAction)]
    every = [(name, action) for name, parser in commands.choices.items() for action in actions(parser)]
    lacking = [f"{name} {action.dest}" for name, action in every if not action.help]
    assert not lacking


def test_a_dump_without_a_page_counts_none() -> None:
    facts = {"verdict": "NONE", "pages_total": 0, "pages_wanted": 0, "pages_present": 0, "seconds": 0.0}
    assert describe_dump(facts | {"reason": "the machine was not armed"}) == "NONE: the machine was not armed"


def test_a_sealed_dump_is_told_from_an_image(machine: Machine) -> None:
    public, private = write_keys(machine.directory)
    _, other = write_keys(machine.directory, "RSA")
    machine.create(size="64MiB")
    machine.mount("--dump-key", public)
    machine.crash()
    sealed = machine.directory / "out" / "1" / "dump.sealed"
    how = f"ghostdump recover {sealed} --dump-private-key PRIVATE.pem --output DIR opens it"
    assert machine.run("recover", machine.image, "--output", "out", check=1).stderr.endswith(f"{how}\n")
    for words in (("mount", sealed, machine.mountpoint), ("verify", sealed), ("inspect", sealed), ("extents", sealed)):
        assert refused(machine, *words).endswith(f"{sealed} is a sealed dump, and no image: {how}\n")
    (machine.directory / "key").write_bytes(b"key")
    opening = ("recover", sealed, "--dump-private-key", private, "--output", "opened/dump")
    assert "leave --key-file out" in refused(machine, *opening, "--key-file", "key", code=2)
    assert "is there, and is no directory" in refused(machine, *opening[:-1], "key")
    for wrong in ((other,), (private, "--min-free", "1000TiB")):
        refused(machine, "recover", sealed, "--output", "opened/dump", "--dump-private-key", *wrong)
        assert not (machine.directory / "opened").exists()
    assert machine.run(*opening).stdout.startswith("COMPLETE")


def test_a_file_that_cannot_be_read_is_bad_usage(machine: Machine) -> None:
    machine.create(size="64MiB")
    mount = ("mount", machine.image, machine.mountpoint)
    recover = ("recover", machine.image, "--output", "out")
    for words in (
        (*mount, "--dump-key", "missing"),
        (*mount, "--memory-image", "missing"),
        (*recover, "--dump-private-key", "missing"),
        ("create", "new.img", "--recipe", "missing"),
        ("create", "new.img", "--size", "64MiB", "--memory", "16MiB", "--encrypt", "--key-file", "missing"),
    ):
        assert "missing" in refused(machine, *words, code=2)
    assert not (machine.directory / "out").exists()


def test_odd_places_are_told_apart(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    assert "is a file: give the mount point" in refused(machine, "status", machine.image)
    machine.kill()
    crash = next(line for line in machine.run("status", machine.mountpoint).stdout.splitlines() if "crash  " in line)
    assert "0x0" not in crash and "died without a bugcheck" in crash
    assert "an empty name" in refused(machine, "recover", machine.image, "--output", "", code=2)
    machine.run("recover", machine.image, "--output", "out")
    vmcore = machine.directory / "out" / "1" / "vmcore"
    for words in (("verify", vmcore), ("mount", vmcore, machine.mountpoint), ("recover", vmcore, "--output", "new")):
        assert f"is a dump already, and no image: ghostdump inspect {vmcore}" in refused(machine, *words)
    assert not (machine.directory / "new").exists()


@pytest.mark.parametrize(
    ("inject", "told"),
    [
        ("flock:signal=SIGKILL:when=1", "the machine ended before it was up (Killed: signal 9)"),
        ("pwrite64:signal=SIGKILL:when=1", "the machine crashed at boot stage drivers (Killed: signal 9)"),
    ],
)
def test_a_machine_that_dies_while_it_boots_is_told_of(machine: Machine, inject: str, told: str) -> None:
    machine.create(size="64MiB")
    machine.prefix = ("strace", "-f", "-qq", "-o", os.devnull, "-P", str(machine.image), "-e", f"inject={inject}")
    assert told in refused(machine, "mount", machine.image, machine.mountpoint)
    machine.prefix = ()
    machine.mount()


def test_a_machine_that_keeps_a_dump_has_a_standby_for_a_small_one(machine: Machine) -> None:
    machine.create(recipe='size = "64MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount()
    machine.crash()
    machine.mount()
    (standby,) = machine.status()["standbys"]
    assert f"{standby['pid']}, for a small dump" in machine.run("status", machine.mountpoint).stdout
    os.kill(standby["pid"], signal.SIGKILL)


def test_an_argument_that_is_none_leads_to_the_help_of_its_command(machine: Machine) -> None:
    assert "(ghostdump status --help)" in refused(machine, "status", machine.mountpoint, "--nope", code=2)


def test_what_is_neither_image_nor_dump_is_told_so(machine: Machine) -> None:
    machine.image.write_bytes(b"neither")
    assert "not a ghostdump image" in (said := refused(machine, "inspect", machine.image))
    assert "nor is it a dump" in said
