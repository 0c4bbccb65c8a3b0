"""The grammar of the laboratory's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.cli.grammar import add_command, add_json, typed
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.script import SCRIPTS
from dumpwriter.sizes import parse_count, parse_number
from vdisk.errors import UsageError

if TYPE_CHECKING:
    import argparse

RECOVERIES = ("boot", "partial", "several", "image")  # of the laboratory, which is slow to import
WRITES_MAX = 16  # in flight: 2^17 states and more


def add_lab(commands: Any) -> None:
    laboratory = commands.add_parser("lab", help="every state that a crash can leave, and what recovery makes of it")
    experiments = laboratory.add_subparsers(metavar="COMMAND", required=True, help="the experiment")
    _prove(experiments)
    _run(experiments)
    _merge(experiments)
    _replay(experiments)
    _shrink(experiments)
    _filesystem(experiments)
    _recovery(experiments)
    _mutate(experiments)


def _prove(commands: Any) -> None:
    command = add_command(commands, "prove", "lab", "run_prove", "every state of a small disk, with a certificate")
    _scenario(command)
    command.add_argument(
        "--writes",
        type=typed(_parse_writes),
        metavar="N",
        help=f"writes in flight, 1 to {WRITES_MAX}; 8 by default, 1 for parity",
    )
    add_json(command)


def _run(commands: Any) -> None:
    command = add_command(commands, "run", "campaign", "run", "cases drawn at random, each with up to three faults")
    _scenario(command)
    command.add_argument("--seed", type=typed(parse_number), default=0, metavar="S", help="which cases; 0 by default")
    command.add_argument(
        "--first", type=typed(parse_number), default=0, metavar="N", help="the number of the first; 0 by default"
    )
    command.add_argument(
        "--cases", type=typed(parse_count), default=10_000, metavar="N", help="how many; 10000 by default"
    )
    command.add_argument(
        "--jobs", type=typed(parse_count), default=1, metavar="J", help="in how many processes; 1 by default"
    )
    command.add_argument("--state", metavar="DIR", help="keep there what was judged, and do not judge it again")
    add_json(command)


def _merge(commands: Any) -> None:
    command = add_command(commands, "merge", "campaign", "run_merge", "what several runs found, put together")
    command.add_argument("directories", nargs="+", metavar="DIR", help="a directory that was given to run as --state")
    add_json(command)


def _replay(commands: Any) -> None:
    command = add_command(commands, "replay", "replay", "run", "one case, write by write")
    command.add_argument("case", help="SCENARIO:SEED:NUMBER, or a line that shrink printed")
    add_json(command)


def _shrink(commands: Any) -> None:
    command = add_command(commands, "shrink", "replay", "run_shrink", "the fewest faults by which a case goes wrong")
    command.add_argument("case", help="a case that does not hold, as run printed it")


def _filesystem(commands: Any) -> None:
    summary = "what a crash can leave of a filesystem at any write, repaired and read"
    command = add_command(commands, "filesystem", "wholedisk", "run_filesystem", summary)
    command.add_argument(
        "script",
        nargs="?",
        default="files",
        metavar="SCRIPT",
        help=f"{', '.join(SCRIPTS)}; drawn: one that the seed gives; or a text as 'write a 0 5000; sync'",
    )
    command.add_argument(
        "--shrink", action="store_true", help="of a script that fails, print a state of the fewest operations"
    )
    _bounds(command)


def _recovery(commands: Any) -> None:
    summary = "a recovery that is cut at any of its writes, and done again"
    command = add_command(commands, "recovery", "wholedisk", "run_recovery", summary)
    command.add_argument(
        "procedure",
        nargs="?",
        choices=RECOVERIES,
        default=RECOVERIES[0],
        metavar="PROCEDURE",
        help=", ".join(RECOVERIES),
    )
    _bounds(command)


def _mutate(commands: Any) -> None:
    command = add_command(commands, "mutate", "mutate", "run", "faults planted in the product, and what finds them")
    command.add_argument("name", nargs="*", metavar="NAME", help="which faults; all by default, and one run with none")
    command.add_argument("--list", action="store_true", help="only name them")
    command.add_argument(
        "--seconds", type=typed(parse_count), default=60, metavar="N", help="of CPU time for each; 60 by default"
    )
    command.add_argument(
        "--jobs", type=typed(parse_count), default=1, metavar="N", help="how many side by side; 1 by default"
    )
    command.add_argument("--markdown", action="store_true", help="print the page docs/planted-faults.md")
    add_json(command)


def _bounds(command: argparse.ArgumentParser) -> None:
    """Of an experiment with a whole disk."""
    for option, default, summary in (
        ("--exhaustive", 64, "epochs with up to so many states have all of them"),
        ("--tears", 4, "tears of each write in the others"),
        ("--random", 4, "states at random of each of these"),
    ):
        command.add_argument(
            option,
            type=typed(parse_number),
            default=default,
            metavar="N",
            help=f"{summary}; {default} by default",
        )
    command.add_argument("--seed", type=typed(parse_number), default=0, metavar="S", help="of these; 0 by default")
    command.add_argument("--case", metavar="LINE", help="only this state, as it was printed")
    add_json(command)


def _scenario(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "scenario", nargs="?", choices=SCENARIOS, default="pages", metavar="SCENARIO", help=", ".join(SCENARIOS)
    )


def _parse_writes(text: str) -> int:
    if parse_count(text) > WRITES_MAX:
        raise UsageError(f"{text} are too many: the states double with each, so {WRITES_MAX} is the most")
    return int(text)
