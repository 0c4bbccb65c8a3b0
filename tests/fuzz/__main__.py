"""Fuzzes targets one after another, guided by coverage: python -m tests.fuzz --runs N TARGET...

An input that breaks a promise is written to tests/fuzz/corpus/TARGET, from where the tests run it ever after. Inputs
that reached new code are kept in .fuzz/TARGET, and the next run goes on from there.

A process is limited in memory, and each input in time; so what takes too much of either is found like any error.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(
    include=["dumpwriter.dumpfile", "dumpwriter.export", "dumpwriter.conversion", "dumpwriter.linux"]
):
    from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_LIMIT_BYTES = 1 << 30
INPUT_LIMIT_SECONDS = 5
PROGRAM_BYTES_MAXIMUM = 192
RUNS_OF_A_PROCESS = 10_000
REPOSITORY = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all of them by default")
    parser.add_argument("--runs", type=int, default=10_000, help="how many inputs for each target")
    arguments = parser.parse_args()
    slices = [(name, runs) for name in arguments.targets or TARGETS for runs in _slices(arguments.runs)]
    return max([_in_a_process_of_its_own(name, runs) for name, runs in slices])


def _slices(runs: int) -> Iterator[int]:
    for done in range(0, runs, RUNS_OF_A_PROCESS):
        yield min(RUNS_OF_A_PROCESS, runs - done)


def _in_a_process_of_its_own(name: str, runs: int) -> int:
    """The library ends the process when it is through, and grows with every input."""
    child = os.fork()
    if child == 0:
        fuzz(name, runs)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fuzz(name: str, runs: int) -> None:
    broken, reached = Path(__file__).parent / "corpus" / name, REPOSITORY / ".fuzz" / name
    for directory in (broken, reached):
        directory.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    options = [
        f"-runs={runs}",
        f"-max_len={PROGRAM_BYTES_MAXIMUM}",
        f"-timeout={INPUT_LIMIT_SECONDS}",
        f"-artifact_prefix={broken}/",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([name, *options, str(reached), str(broken)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
