"""What a command loads before it does anything, and what it says when it is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dumpwriter import cli

SLOW_TO_LOAD = ("cryptography", "numpy", "trio")


@pytest.mark.parametrize("command", ["hibernate", "mount", "secondary", "show"])
def test_what_looks_at_a_machine_loads_no_machine(command: str) -> None:
    program = f"import sys, dumpwriter.cli.arguments, dumpwriter.cli.{command}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "dumpwriter.runtime" in loaded
    assert not set(SLOW_TO_LOAD) & set(loaded)


def test_an_interrupt_is_told_to_programs_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["status", "mnt", "--json"]) == 130
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": "interrupted", "exit_code": 130}
    assert said.err == "ghostdump: interrupted\n"
