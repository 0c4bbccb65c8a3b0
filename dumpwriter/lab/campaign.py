"""A campaign: cases drawn at random, each with up to three faults, each a pure function of scenario, seed and number.

A campaign is cut anywhere into parts, by the numbers of the cases; a part may be run twice, here or elsewhere, and the
parts together find what the whole finds.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.faults import FaultKind, draw_faults
from dumpwriter.lab.judging import Expectation
from dumpwriter.lab.lostframes import is_one_left_out
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.tally import Tally
from dumpwriter.lab.world import recording_of
from dumpwriter.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.judging import Reader
    from dumpwriter.lab.world import World

ALIVE_BEFORE_A_COLLECTION = 100_000  # objects that came up since the last one


class Counts(NamedTuple):
    """`verdicts` counts what the first reader found; `faults` in how many cases each kind was, twice where it was.

    `strays` counts cases in which the writer wrote to a block outside the region. `examples` are texts.
    """

    readers: tuple[str, ...]
    wrong_bytes: int
    disagreements: int
    strays: int
    verdicts: dict[Verdict, int]
    faults: dict[FaultKind, int]
    examples: tuple[str, ...]
    verdict_digest: str

    @property
    def cases(self) -> int:
        return sum(self.verdicts.values())

    @property
    def holds(self) -> bool:
        return not (self.wrong_bytes or self.disagreements or self.strays)


def run_cases(world: World, readers: Sequence[Reader], seed: int, numbers: Iterable[int]) -> Counts:
    """Judge the cases with these numbers. Whoever wants to stop early ends the iteration."""
    return Bench(world, readers).run(seed, numbers)


class Bench:
    """A world and its readers, for one run of cases after the other: what is remembered of them stays."""

    def __init__(self, world: World, readers: Sequence[Reader]) -> None:
        self._world = world
        self._readers = readers
        self._recording = recording_of(world)
        self._passages = Passages(self._recording)
        self._expectation = Expectation(world)

    def run(self, seed: int, numbers: Iterable[int]) -> Counts:
        tally, kinds = Tally(self._expectation, self._readers), Counter[FaultKind]()
        with _seldom_collected():
            for number in numbers:
                key = CaseKey(self._world.scenario.name, seed, number)
                faults = draw_faults(Chance(key), self._recording)
                kinds.update(fault.kind for fault in faults)
                self._judge(key, faults, tally)
        return self._counts(tally, kinds)

    def _judge(self, key: CaseKey, faults: Sequence[Fault], tally: Tally) -> None:
        tally.judge(key, self._passages.state_after(faults))
        if self._passages.strays_under(faults):
            tally.count_stray(key)
        if self._world.spares and is_one_left_out(self._world, faults, self._passages.trace_under(faults)):
            tally.count_left_out(key)

    def _counts(self, tally: Tally, kinds: Counter[FaultKind]) -> Counts:
        return Counts(
            readers=tuple(reader.name for reader in self._readers),
            wrong_bytes=tally.wrong_bytes,
            disagreements=tally.disagreements,
            strays=tally.strays,
            verdicts={verdict: tally.verdicts[verdict] for verdict in Verdict},
            faults={kind: kinds[kind] for kind in FaultKind},
            examples=tuple(map(str, tally.examples)),
            verdict_digest=tally.digest(),
        )


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """What is remembered is much, and in no cycle: to look through it for one again and again took a sixth of the time.

    A reader that leaves cycles behind is collected all the same.
    """
    young, *older = gc.get_threshold()
    gc.set_threshold(ALIVE_BEFORE_A_COLLECTION, *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
