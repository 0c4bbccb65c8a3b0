"""What a command loads before it does anything: who only looks at a machine waits for nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW_TO_LOAD = ("cryptography", "numpy", "trio")


@pytest.mark.parametrize("command", ["hibernate", "mount", "secondary", "show"])
def test_what_looks_at_a_machine_loads_no_machine(command: str) -> None:
    program = f"import sys, dumpwriter.cli.arguments, dumpwriter.cli.{command}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "dumpwriter.runtime" in loaded
    assert not set(SLOW_TO_LOAD) & set(loaded)
