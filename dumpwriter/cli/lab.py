"""lab prove: every state that a crash can leave, and what recovery makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE
from dumpwriter.cli.findings import print_findings, versions
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
    scenario = SCENARIOS[arguments.scenario]
    world = build_world(scenario._replace(writes_in_flight=arguments.writes or scenario.writes_in_flight))
    with progress_bar("prove") as show:
        certificate = prove(world, [Recovery(world)], show)
    if arguments.json:
        counts = {
            "count": certificate.states,
            "expected_count": certificate.states_expected,
            "distinct_count": certificate.distinct,
        }
        epochs = [bound._asdict() for bound in certificate.epochs]
        print_json(counts | _document(certificate, "states", "states_expected", "distinct") | {"epochs": epochs})
    else:
        widest = max(certificate.epochs, key=lambda bound: bound.states)
        in_flight = f"up to {widest.writes} writes of {widest.sectors} sectors in flight"
        print(
            f"{certificate.scenario}: {certificate.states} states of {certificate.states_expected}, "
            f"{certificate.distinct} of them with other bytes, {in_flight}; "
            f"{certificate.wrong_bytes} wrong bytes"
        )
        print_findings(certificate)
        print(f"  trace    {certificate.trace_digest}")
        if certificate.premature:
            print(f"  {certificate.premature} states say that the dump was written to its end, and it was not")
        if certificate.undisturbed != certificate.planned:
            print(f"  {certificate.undisturbed} even where nothing goes wrong: pages are never written")
    return 0 if certificate.holds else FAILED_EXIT_CODE


def _document(certificate: Certificate, *without: str) -> dict[str, Any]:
    facts = {name: value for name, value in certificate._asdict().items() if name not in without}
    return facts | {
        "examples": [str(example) for example in certificate.examples],
        "holds": certificate.holds,
        "versions": versions(format=VERSION),
    }
