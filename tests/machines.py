"""Machines for tests: the installed command, real images, real mounts. Whatever a test does, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from typing import TYPE_CHECKING, Any

from dumpwriter import runtime
from dumpwriter.formats.runtime import MachineState, Register, StandbyRegister
from dumpwriter.machine.status import machine_is_alive, standby_is_alive
from tests.mounting import wait_until
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = os.path.join(sysconfig.get_path("scripts"), "ghostdump")


class Machine:
    """One image and one mount point, driven by the command line as a user would."""

    def __init__(self, directory: Path, prefix: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.image = directory / "disk.img"
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.prefix = prefix
        self.environment = {**os.environ, "LC_ALL": "C"}

    def run(self, *arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command; with `check`, its exit code must be that."""
        command = [*self.prefix, COMMAND, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=self.directory, env=self.environment
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        if check is not None:
            assert done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def facts(self, *arguments: object, check: int | None = 0) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*arguments, "--json", check=check).stdout)

    def create(self, *arguments: object, size: str = "128MiB", memory: str = "16MiB", recipe: str = "") -> None:
        if recipe:
            path = self.directory / "recipe.toml"
            path.write_text(recipe)
            self.run("create", self.image, "--recipe", path, *arguments)
        else:
            self.run("create", self.image, "--size", size, "--memory", memory, *arguments)

    def mount(self, *arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("mount", self.image, self.mountpoint, *arguments, check=check)

    def status(self) -> Any:
        return self.facts("status", self.mountpoint)

    def unmount(self) -> None:
        self.run("unmount", self.mountpoint)

    def crash(self, *arguments: object, check: int | None = 0) -> Any:
        return self.facts("crash", self.mountpoint, *arguments, check=check)

    def hibernate(self, check: int | None = 0) -> Any:
        return self.facts("hibernate", self.mountpoint, check=check)

    def kill(self) -> None:
        """`kill -9` of the mount process, and the end of the standby that it wakes."""
        os.kill(self.status()["pid"], signal.SIGKILL)
        self.wait_until_dumped()

    def signal_standbys(self, order: signal.Signals) -> None:
        for standby in self.status()["standbys"]:
            if standby["pid"]:
                os.kill(standby["pid"], order)

    def wait_until_dumped(self) -> None:
        found = runtime.find(str(self.mountpoint))
        assert found is not None
        wait_until(
            lambda: not machine_is_alive(found) and not standby_is_alive(found), "the standby has written its dump"
        )
        assert found.state in (MachineState.DUMPED, MachineState.FAILED)
        found.close()
        wait_until(lambda: mountinfo.find(str(self.mountpoint)) is None, "the mount is gone")

    def wait_until_off(self) -> None:
        """The clean end of a machine: its process, its mount and its runtime file are gone."""
        wait_until(lambda: runtime.find(str(self.mountpoint)) is None, "the machine is off")
        wait_until(lambda: mountinfo.find(str(self.mountpoint)) is None, "the mount is gone")

    def check_filesystem(self) -> None:
        """What a crash leaves must be replayed to clean by e2fsck alone."""
        replayed = subprocess.run(["e2fsck", "-p", self.image], capture_output=True, text=True, check=False)
        assert replayed.returncode in (0, 1), replayed.stdout + replayed.stderr
        self.must_be_clean()

    def must_be_clean(self) -> None:
        checked = subprocess.run(["e2fsck", "-fn", self.image], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    def crash_directory(self, number: int = 1) -> Path:
        return self.mountpoint / "var" / "crash" / str(number)

    def end(self) -> None:
        """Take everything away, in whatever state it is."""
        found = runtime.find(str(self.mountpoint))
        if found is not None:
            # The standbys first: they would answer the machine's death with a dump. It is held, since it replaces them.
            for order in (signal.SIGSTOP, signal.SIGKILL):
                if machine_is_alive(found):
                    os.kill(found[Register.MACHINE_PID], order)
                for standby in found.writers:
                    if standby.is_alive:
                        os.kill(standby[StandbyRegister.PID], signal.SIGKILL)
            wait_until(lambda: not machine_is_alive(found), "the machine's process ends")
            found.remove()
            found.close()
        while mounted := mountinfo.find(str(self.mountpoint)):
            mountinfo.detach(mounted)
