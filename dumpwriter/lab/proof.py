"""The proof over a small world: every state is read by every reader, and each must find just what the disk holds.

The certificate says what was proved and how to tell that it was the same: the count against the closed form, how many
different disks that were, a digest of the trace that the states are made of, and a digest of all that the first reader
found, state by state.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.lab.diskstate import DiskState
from dumpwriter.lab.enumeration import (
    Cut,
    cuts,
    disk_count,
    distinct_count,
    epochs,
    expected_count,
    sectors,
    state_after,
)
from dumpwriter.lab.fates import whole_patch
from dumpwriter.lab.judging import Expectation
from dumpwriter.lab.tally import Disagreement, Stray, Tally, Unmoved
from dumpwriter.lab.world import recording_of
from dumpwriter.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.lab.enumeration import Epoch
    from dumpwriter.lab.judging import Reader
    from dumpwriter.lab.world import World
    from vdisk.layers.trace import Event


class Bound(NamedTuple):
    """What one epoch has; `disks` are its states with different bytes."""

    writes: int
    sectors: int
    states: int
    disks: int


class Certificate(NamedTuple):
    """`distinct` counts the states with different bytes, by a closed form, and `verdicts` what the first reader found.
    `wrong_bytes` and `disagreements` are of all readers.

    `undisturbed` is what must come out where nothing goes wrong, and `planned` what there is room for in the region: a
    dump that then lacks pages was never a whole one. `premature` counts states in which a header says of less than
    that that it was written to its end: no cut may leave it, for the frames are flushed before. `strays` are writes to
    blocks outside the region.
    """

    scenario: str
    readers: tuple[str, ...]
    epochs: tuple[Bound, ...]
    states: int
    states_expected: int
    distinct: int
    wrong_bytes: int
    disagreements: int
    verdicts: dict[Verdict, int]
    examples: tuple[Disagreement | Stray | Unmoved, ...]
    undisturbed: Verdict
    planned: Verdict
    premature: int
    strays: int
    trace_digest: str
    verdict_digest: str

    @property
    def holds(self) -> bool:
        is_written = self.undisturbed == self.planned and not self.premature and not self.strays
        is_found = not self.wrong_bytes and not self.disagreements
        return self.states == self.states_expected and is_written and is_found


class CutAfter(NamedTuple):
    """A state, by the flushes before it and the cut behind them."""

    flushes: int
    cut: Cut

    def __str__(self) -> str:
        cut = self.cut
        kept = [number for number in range(cut.kept.bit_length()) if cut.kept >> number & 1]
        torn = "" if cut.torn is None else f", write {cut.torn} torn after {cut.torn_sectors} sectors"
        return f"{self.flushes} flushes, then writes {kept} of those in flight{torn}"


def prove(world: World, readers: Sequence[Reader], progress: Callable[[int, int], None]) -> Certificate:
    """Walk through every state of the world. `progress` takes the states done and all."""
    parts = list(epochs(world.before, world.trace))
    expected = sum(map(expected_count, parts))
    tally, end, premature = Tally(Expectation(world), readers), DiskState(parts[-1].base, ()), 0
    undisturbed = Expectation(world).of(end)
    told = [(header, end.read(*header)) for header in world.headers]  # by the undisturbed dump: that it was written
    for flushes, epoch in enumerate(parts):
        for cut in cuts(epoch):
            state = state_after(epoch, cut)
            is_less = tally.judge(CutAfter(flushes, cut), state) != undisturbed
            premature += is_less and any(state.read(*header) == content for header, content in told)
            progress(tally.cases, expected)
    return Certificate(
        scenario=world.scenario.name,
        readers=tuple(reader.name for reader in readers),
        epochs=tuple(map(_bound, parts)),
        states=tally.cases,
        states_expected=expected,
        distinct=distinct_count(parts),
        wrong_bytes=tally.wrong_bytes,
        disagreements=tally.disagreements,
        verdicts={verdict: tally.verdicts[verdict] for verdict in Verdict},
        examples=tuple(tally.examples),
        undisturbed=undisturbed.verdict,
        planned=world.scenario.planned,
        premature=premature,
        strays=len(recording_of(world).strays([*map(whole_patch, world.trace)])),
        trace_digest=digest_of_trace(world.trace),
        verdict_digest=tally.digest(),
    )


def _bound(epoch: Epoch) -> Bound:
    sectors_written = sum(map(sectors, epoch.writes))
    return Bound(len(epoch.writes), sectors_written, expected_count(epoch), disk_count(epoch))


def digest_of_trace(trace: Sequence[Event]) -> str:
    digest = blake3.blake3()
    for event in trace:
        digest.update(struct.pack("<8sQQ", event.kind.encode(), event.offset_bytes, event.length_bytes))
        digest.update(event.content)
    return digest.hexdigest()
