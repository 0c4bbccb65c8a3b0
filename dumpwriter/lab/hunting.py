"""The hunt for a planted fault: the laboratory's experiments, the cheapest first, until one finds something.

An experiment looks at the product from outside, as it does when no fault is planted, and knows nothing of the faults.
What ends with an exception was found too: recovery never raises for what a disk holds.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.checks import CHECKS, RefutedError
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.proof import prove
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Experiment(NamedTuple):
    """`search` returns what is wrong; an empty text where nothing is."""

    name: str
    search: Callable[[], str]


class Find(NamedTuple):
    """Which experiment found something, and what."""

    experiment: str
    what: str


def hunt(experiments: Iterable[Experiment]) -> Find | None:
    """The first find; None where every experiment ends without one."""
    for experiment in experiments:
        try:
            what = experiment.search()
        except Exception as error:
            what = f"raised {traceback.format_exception_only(error)[-1].strip()}"
        if what:
            return Find(experiment.name, what)
    return None


def _proof(scenario: str, writes: int) -> Experiment:
    def search() -> str:
        world = build_world(SCENARIOS[scenario]._replace(writes_in_flight=writes))
        certificate = prove(world, [Recovery(world)], lambda done, total: None)  # noqa: ARG005 - nobody looks
        if certificate.examples:
            return str(certificate.examples[0])
        if certificate.premature:
            return f"{certificate.premature} states say that the dump was written to its end, and it was not"
        return "" if certificate.holds else f"{certificate.undisturbed} even where nothing goes wrong"

    return Experiment(f"prove {scenario} --writes {writes}", search)


def _campaign(scenario: str, cases: int) -> Experiment:
    def search() -> str:
        world = build_world(SCENARIOS[scenario])
        return next(iter(run_cases(world, [Recovery(world)], 0, range(cases)).examples), "")

    return Experiment(f"run {scenario} --cases {cases}", search)


def _check(name: str) -> Experiment:
    def search() -> str:
        try:
            CHECKS[name]()
        except RefutedError as refuted:
            return str(refuted)
        return ""

    return Experiment(f"check {name}", search)


EXPERIMENTS = (
    *map(_check, CHECKS),
    _campaign("zeros", 200),
    _campaign("requests", 60),
    _proof("zeros", 1),
    _proof("pages", 2),
    _campaign("short", 300),
    _campaign("zeros", 4_000),
)
