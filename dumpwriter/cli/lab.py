"""lab prove and lab run: what a crash can leave, and what recovery makes of it."""

from __future__ import annotations

import contextlib
import platform
import signal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE, INTERRUPTED_EXIT_CODE
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.formats.region import VERSION
from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.proof import prove
from dumpwriter.lab.remembering import RememberingRecovery
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from dumpwriter.lab.campaign import Outcome
    from dumpwriter.lab.proof import Certificate


def run_prove(arguments: argparse.Namespace) -> int:
    scenario = SCENARIOS[arguments.scenario]._replace(writes_in_flight=arguments.writes)
    world = build_world(scenario)
    with progress_bar("prove") as show:
        certificate = prove(world, [Recovery(world)], show)
    if arguments.json:
        counts = {"count": certificate.states, "expected_count": certificate.states_expected}
        epochs = [bound._asdict() for bound in certificate.epochs]
        print_json(counts | _document(certificate, "states", "states_expected") | {"epochs": epochs})
    else:
        widest = max(certificate.epochs, key=lambda bound: bound.states)
        print(
            f"{certificate.scenario}: {certificate.states} states of {certificate.states_expected}, up to "
            f"{widest.writes} writes of {widest.sectors} sectors in flight; {certificate.wrong_bytes} wrong bytes"
        )
        _print_findings(certificate)
        print(f"  trace    {certificate.trace_digest}")
        if certificate.premature:
            print(f"  {certificate.premature} states say that the dump was written to its end, and it was not")
        if certificate.undisturbed != certificate.planned:
            print(f"  {certificate.undisturbed} even where nothing goes wrong: pages are never written")
    return 0 if certificate.holds else FAILED_EXIT_CODE


def run_campaign(arguments: argparse.Namespace) -> int:
    """Ctrl-C ends it behind the case that is being judged; what there is until then is told, and where to go on."""
    world = build_world(SCENARIOS[arguments.scenario])
    with _until_interrupted() as is_interrupted, progress_bar("run") as show:
        numbers = _numbers(arguments.first, arguments.cases, show, is_interrupted)
        outcome = run_cases(world, [RememberingRecovery(world)], arguments.seed, numbers)
    following = arguments.first + outcome.cases
    if arguments.json:
        print_json({"first": arguments.first, "next": following} | _document(outcome))
    else:
        print(
            f"{outcome.scenario}: cases {arguments.first} to {following - 1} of seed {outcome.seed}; "
            f"{outcome.wrong_bytes} wrong bytes; --first {following} goes on"
        )
        _print_findings(outcome)
    if not outcome.holds:
        return FAILED_EXIT_CODE
    return 0 if outcome.cases == arguments.cases else INTERRUPTED_EXIT_CODE


@contextlib.contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether somebody wants it to end."""
    wishes: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: wishes.append(number))
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGINT, before)


def _numbers(
    first: int, count: int, show: Callable[[int, int], None], is_interrupted: Callable[[], bool]
) -> Iterator[int]:
    """The numbers of the cases to be judged; each is asked for when the one before it is done."""
    for done in range(count):
        if is_interrupted():
            return
        yield first + done
        show(done + 1, count)


def _document(result: Certificate | Outcome, *without: str) -> dict[str, Any]:
    facts = {name: value for name, value in result._asdict().items() if name not in without}
    return facts | {
        "examples": [str(example) for example in result.examples],
        "holds": result.holds,
        "versions": {"ghostdump": version("ghostdump"), "format": VERSION, "python": platform.python_version()},
    }


def _print_findings(result: Certificate | Outcome) -> None:
    for verdict, count in result.verdicts.items():
        print(f"  {verdict:<9}{count:>9}")
    for example in result.examples:
        print(f"  {example}")
    if result.disagreements:
        print(f"  {result.disagreements} disagreements in all")
    if result.strays:
        print(f"  the writer left the region's extents {result.strays} times")
    print(f"  verdicts {result.verdict_digest}")
