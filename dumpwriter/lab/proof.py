"""The proof over a small world: every state is read by every reader, and each must find just what the disk holds.

The certificate says what was proved and how to tell that it was the same: the count against the closed form, a digest
of the trace that the states are made of, and a digest of all that the first reader found, state by state.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.lab.enumeration import Cut, cuts, epochs, expected_count, sectors, state_after
from dumpwriter.lab.judging import Expectation, Reader, Reading
from dumpwriter.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.world import World
    from vdisk.layers.trace import Event

DISAGREEMENTS_MAX = 10  # kept to be looked at; all are counted


class Disagreement(NamedTuple):
    """A state of which a reader makes something else than it holds."""

    reader: str
    epoch: int
    cut: Cut
    expected: Reading
    found: Reading

    def __str__(self) -> str:
        cut = self.cut
        kept = [number for number in range(cut.kept.bit_length()) if cut.kept >> number & 1]
        torn = "" if cut.torn is None else f", write {cut.torn} torn after {cut.torn_sectors} sectors"
        return (
            f"{self.reader} found {self.found.verdict} with {self.found.wrong_bytes} wrong bytes instead of "
            f"{self.expected.verdict}: flush {self.epoch}, then writes {kept} of those in flight{torn}"
        )


class Bound(NamedTuple):
    """What one epoch has."""

    writes: int
    sectors: int
    states: int


class Certificate(NamedTuple):
    """`verdicts` counts what the first reader found; `wrong_bytes` and `disagreements` are of all readers."""

    scenario: str
    readers: tuple[str, ...]
    epochs: tuple[Bound, ...]
    states: int
    states_expected: int
    wrong_bytes: int
    disagreements: int
    verdicts: dict[Verdict, int]
    examples: tuple[Disagreement, ...]
    trace_digest: str
    verdict_digest: str

    @property
    def holds(self) -> bool:
        return self.states == self.states_expected and not self.wrong_bytes and not self.disagreements


def prove(world: World, readers: Sequence[Reader], progress: Callable[[int, int], None]) -> Certificate:
    """Walk through every state of the world. `progress` takes the states done and all."""
    parts = list(epochs(world.before, world.trace))
    expected = sum(map(expected_count, parts))
    tally = _Tally(Expectation(world), readers)
    for number, epoch in enumerate(parts):
        for cut in cuts(epoch):
            tally.judge(number, cut, state_after(epoch, cut))
            progress(tally.states, expected)
    return Certificate(
        scenario=world.scenario.name,
        readers=tuple(reader.name for reader in readers),
        epochs=tuple(
            Bound(len(epoch.writes), sum(map(sectors, epoch.writes)), expected_count(epoch)) for epoch in parts
        ),
        states=tally.states,
        states_expected=expected,
        wrong_bytes=tally.wrong_bytes,
        disagreements=tally.disagreements,
        verdicts={verdict: tally.verdicts[verdict] for verdict in Verdict},
        examples=tuple(tally.examples),
        trace_digest=digest_of_trace(world.trace),
        verdict_digest=tally.digest.hexdigest(),
    )


class _Tally:
    """What the readers made of the states so far."""

    def __init__(self, expectation: Expectation, readers: Sequence[Reader]) -> None:
        self._expectation = expectation
        self._readers = readers
        self.states = self.wrong_bytes = self.disagreements = 0
        self.verdicts: Counter[Verdict] = Counter()
        self.examples: list[Disagreement] = []
        self.digest = blake3.blake3()

    def judge(self, epoch: int, cut: Cut, state: DiskState) -> None:
        expected = self._expectation.of(state)
        first, *others = [(reader.name, reader.read(state)) for reader in self._readers]
        self.states += 1
        self.verdicts[first[1].verdict] += 1
        self.digest.update(_encode(first[1]))
        for name, found in (first, *others):
            self.wrong_bytes += found.wrong_bytes
            if not found.is_as(expected):
                self.disagreements += 1
                if len(self.examples) < DISAGREEMENTS_MAX:
                    self.examples.append(Disagreement(name, epoch, cut, expected, found))


def _encode(reading: Reading) -> bytes:
    """One line; without hash order or a type's own spelling in it, so that it is the same on every Python."""
    present = ",".join(f"{run.first_page}+{run.page_count}" for run in reading.present)
    return f"{reading.verdict.value} {present} {reading.wrong_bytes}\n".encode()


def digest_of_trace(trace: Sequence[Event]) -> str:
    digest = blake3.blake3()
    for event in trace:
        digest.update(struct.pack("<8sQQ", event.kind.encode(), event.offset_bytes, event.length_bytes))
        digest.update(event.content)
    return digest.hexdigest()
