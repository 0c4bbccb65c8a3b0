"""lab: what a crash can leave, and what recovery makes of it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.formats.region import VERSION
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.proof import prove
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world

if TYPE_CHECKING:
    import argparse

    from dumpwriter.lab.proof import Certificate


def run_prove(arguments: argparse.Namespace) -> int:
    scenario = SCENARIOS[arguments.scenario]._replace(writes_in_flight=arguments.writes)
    world = build_world(scenario)
    with progress_bar("prove") as show:
        certificate = prove(world, [Recovery(world)], show)
    if arguments.json:
        print_json(_document(certificate))
    else:
        _print_certificate(certificate)
    return 0 if certificate.holds else FAILED_EXIT_CODE


def _document(certificate: Certificate) -> dict[str, Any]:
    facts = certificate._asdict()
    return {
        "count": facts.pop("states"),
        "expected_count": facts.pop("states_expected"),
        **facts,
        "epochs": [bound._asdict() for bound in certificate.epochs],
        "examples": [str(example) for example in certificate.examples],
        "holds": certificate.holds,
        "versions": {"ghostdump": version("ghostdump"), "format": VERSION, "python": platform.python_version()},
    }


def _print_certificate(certificate: Certificate) -> None:
    widest = max(certificate.epochs, key=lambda bound: bound.states)
    print(
        f"{certificate.scenario}: {certificate.states} states of {certificate.states_expected}, up to {widest.writes} "
        f"writes of {widest.sectors} sectors in flight; {certificate.wrong_bytes} wrong bytes"
    )
    for verdict, count in certificate.verdicts.items():
        print(f"  {verdict:<9}{count:>9}")
    print(f"  trace    {certificate.trace_digest}")
    print(f"  verdicts {certificate.verdict_digest}")
    for example in certificate.examples:
        print(f"  {example}")
    if certificate.disagreements:
        print(f"  {certificate.disagreements} disagreements in all")
