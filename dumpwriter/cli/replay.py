"""lab replay and lab shrink: one case of the laboratory, looked at closely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE
from dumpwriter.cli.show import print_json
from dumpwriter.commandline import command_line
from dumpwriter.lab.case import describe_case, open_case
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.replay import Laboratory
from dumpwriter.lab.shrinking import shrink
from vdisk.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from dumpwriter.lab.replay import Replay


def run(arguments: argparse.Namespace) -> int:
    world, faults = open_case(arguments.case)
    replay = Laboratory(world, [Recovery(world)]).replay(faults)
    if arguments.json:
        print_json(_replay_document(replay) | {"case": arguments.case})
    else:
        _print_replay(replay)
    return 0 if replay.holds else FAILED_EXIT_CODE


def run_shrink(arguments: argparse.Namespace) -> int:
    world, faults = open_case(arguments.case)
    laboratory = Laboratory(world, [Recovery(world)])
    failure = laboratory.replay(faults).failure
    if failure is None:
        raise UsageError(
            f"{arguments.case} holds, so there is nothing to shrink: give a case that lab run complains of"
        )
    smallest = shrink(faults, lambda some: laboratory.replay(some).failure == failure)
    print(command_line("lab", "replay", describe_case(world, smallest)))
    return 0


def _replay_document(replay: Replay) -> dict[str, Any]:
    return {
        "faults": [fault._asdict() for fault in replay.faults],
        "timeline": [
            {
                "operation": fate.number,
                "kind": fate.operation.kind,
                "place_bytes": fate.operation.offset_bytes,
                "length_bytes": fate.operation.length_bytes,
                "fate": fate.in_words,
            }
            for fate in replay.fates
        ],
        "frames": [
            {"sequence": frame.plan.sequence, "kind": frame.plan.kind.name, "whole": is_whole}
            for frame, is_whole in replay.frames
        ],
        "expected": replay.expected.verdict,
        "verdicts": {name: reading.verdict for name, reading in replay.found},
        "strays": list(replay.strays),
        "frame_left_out": replay.is_one_left_out,
        "wrong_bytes": sum(reading.wrong_bytes for _, reading in replay.found),
        "holds": replay.holds,
        "trace_digest": replay.trace_digest,
    }


def _print_replay(replay: Replay) -> None:
    for fault in replay.faults:
        print(fault)
    for fate in replay.fates:
        print(f"  {fate}")
    for frame, is_whole in replay.frames:
        print(f"  frame {frame.plan.sequence} {frame.plan.kind.name:<9} {'whole' if is_whole else 'lost'}")
    for name, reading in replay.found:
        print(f"{name}: {reading.verdict}, {reading.wrong_bytes} wrong bytes; expected {replay.expected.verdict}")
    for number in replay.strays:
        print(f"operation {number} leaves the region's extents")
    if replay.is_one_left_out:
        print("a frame is left out that a spare slot would have taken, or parity must cover")
    print(f"trace {replay.trace_digest}")
