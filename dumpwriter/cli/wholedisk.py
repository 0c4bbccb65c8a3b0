"""lab filesystem and lab recovery: what a crash can leave of a whole disk, and what is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from dumpwriter.cli import FAILED_EXIT_CODE
from dumpwriter.cli.findings import versions
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.commandline import command_line
from dumpwriter.lab.bounds import Bounds
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.exploration import explore, parse_case, span_of, state_of
from dumpwriter.lab.filesystemproof import FilesystemExperiment, shrunk
from dumpwriter.lab.interruption import PROCEDURES, RecoveryExperiment
from dumpwriter.lab.script import describe, draw_script
from dumpwriter.machine.replay import replay
from vdisk.errors import FilesystemError, UsageError
from vdisk.ext4.mkfs import e2fsck_version

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from dumpwriter.lab.exploration import Case, Certificate, Experiment, Finding, Span

DRAWN = "drawn"
DRAWN_OPERATIONS = 25


def run_filesystem(arguments: argparse.Namespace) -> int:
    script = _drawn(arguments.seed) if arguments.script == DRAWN else arguments.script
    if not script.strip():
        raise UsageError("the script is empty: give a name or operations, or leave it out")
    if arguments.shrink:
        return _shrink(script, arguments)
    return _run("filesystem", FilesystemExperiment, script, arguments)


def run_recovery(arguments: argparse.Namespace) -> int:
    return _run("recovery", _recovery, arguments.procedure, arguments)


def _recovery(subject: str) -> RecoveryExperiment:
    if subject not in PROCEDURES:
        raise UsageError(f"{subject!r} is not a recovery: a case begins with one of {', '.join(PROCEDURES)}")
    return RecoveryExperiment(subject, lambda device: trio.run(replay, device, _fail))


def _fail(request: str, failure: Exception) -> None:
    raise FilesystemError(f"the replay of the journal failed at a {request}: {failure}")


def _shrink(script: str, arguments: argparse.Namespace) -> int:
    with progress_bar("shrink") as show:
        case = shrunk(script, arguments.seed, _bounds(arguments), show)
    if case is None:
        raise UsageError("no state of this script fails within the bounds: there is nothing to shrink")
    print(command_line("lab", "filesystem", "--case", str(case)))
    return 0


def _bounds(arguments: argparse.Namespace) -> Bounds:
    return Bounds(arguments.exhaustive, arguments.tears, arguments.random)


def _drawn(seed: int) -> str:
    return describe(draw_script(Chance(CaseKey("script", seed, 0)), DRAWN_OPERATIONS))


def _run(name: str, make: Callable[[str], Experiment], subject: str, arguments: argparse.Namespace) -> int:
    if arguments.case is not None:
        return _replay(make, arguments)
    with progress_bar("prove") as show:
        certificate = explore(make(subject), arguments.seed, _bounds(arguments), show)
    if arguments.json:
        print_json(_document(certificate))
    else:
        _print_certificate(name, certificate)
    return 0 if certificate.holds else FAILED_EXIT_CODE


def _document(certificate: Certificate) -> dict[str, Any]:
    facts = certificate._asdict()
    return {
        "count": facts.pop("states"),
        "expected_count": facts.pop("states_expected"),
        **facts,
        "bounds": certificate.bounds._asdict(),
        "examples": [{"case": str(case), **finding._asdict()} for case, finding in certificate.examples],
        "holds": certificate.holds,
        "versions": versions(e2fsck=e2fsck_version()),
    }


def _print_certificate(name: str, certificate: Certificate) -> None:
    bounds = certificate.bounds
    print(
        f"{certificate.subject}: {certificate.states} states of {certificate.states_expected}, {certificate.distinct} "
        f"of them with other bytes, after {certificate.writes} writes in {certificate.epochs} epochs"
    )
    print(
        f"  of an epoch all states up to {bounds.exhaustive}; else every prefix, each write lost and alone, "
        f"{bounds.tears} tears of each, {bounds.random} at random of seed {certificate.seed}"
    )
    width = max(map(len, certificate.verdicts))
    for verdict, count in certificate.verdicts.items():
        print(f"  {verdict:<{width}}{count:>9}")
    for case, finding in certificate.examples:
        print(f"  {finding.verdict}: {finding.reason}")
        print(f"    {command_line('lab', name, '--case', str(case))}")
    print(f"  shape    {certificate.shape_digest}")
    print(f"  verdicts {certificate.verdict_digest}")


def _replay(make: Callable[[str], Experiment], arguments: argparse.Namespace) -> int:
    case = parse_case(arguments.case)
    experiment = make(case.subject)
    span = span_of(experiment, case)
    finding = experiment.judge(span, state_of(span, case.cut))
    if arguments.json:
        print_json({"case": str(case), "in_flight": _fates(case, span), **finding._asdict()})
    else:
        _print_replay(case, span, finding)
    return FAILED_EXIT_CODE if finding.reason else 0


def _print_replay(case: Case, span: Span, finding: Finding) -> None:
    print(f"epoch {span.number}: {len(span.epoch.writes)} writes in flight, behind {span.first_event} events")
    for fate in _fates(case, span):
        print(f"  {fate['place_bytes']:>10} {fate['length_bytes']:>8}  {fate['fate']}")
    print(": ".join(filter(None, finding)))


def _fates(case: Case, span: Span) -> list[dict[str, Any]]:
    return [
        {"place_bytes": write.offset_bytes, "length_bytes": write.length_bytes, "fate": _fate(case, number)}
        for number, write in enumerate(span.epoch.writes)
    ]


def _fate(case: Case, number: int) -> str:
    if number == case.cut.torn:
        return f"torn after {case.cut.torn_sectors} sectors"
    return "kept" if case.cut.kept >> number & 1 else "lost"
