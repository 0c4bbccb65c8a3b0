"""Shards: a campaign cut by the numbers of its cases, what was found in each, and all of it put together again.

A shard is named by the build that judges, scenario, seed and its cases, and by nothing of where or when it is judged.
So it may be judged twice, or on several machines, and what is found is the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.tally import DISAGREEMENTS_MAX, sum_of_digests
from dumpwriter.verdict import Verdict
from vdisk.errors import CampaignError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dumpwriter.lab.campaign import Bench, Outcome

SHARD_CASES = 2000  # a second's work, or a few


class Campaign(NamedTuple):
    """Which cases there are, and by which sources they are judged."""

    build: str
    scenario: str
    seed: int


class Part(NamedTuple):
    """The cases from `first` to `end` - 1."""

    first: int
    end: int


class Shard(NamedTuple):
    """A part of a campaign."""

    campaign: Campaign
    part: Part

    @property
    def file_name(self) -> str:
        (build, scenario, seed), (first, end) = self
        return f"{scenario}-{seed}-{first}-{end}-{build[:16]}.json"


class Counts(NamedTuple):
    """As in an `Outcome`; examples are texts."""

    readers: tuple[str, ...]
    wrong_bytes: int
    disagreements: int
    strays: int
    verdicts: dict[Verdict, int]
    faults: dict[FaultKind, int]
    examples: tuple[str, ...]
    verdict_digest: str


class Judged(NamedTuple):
    """A shard, and what was found in its cases."""

    shard: Shard
    counts: Counts


class Total(NamedTuple):
    """What was found in parts of a campaign; the parts are ascending, disjoint and joined."""

    campaign: Campaign
    parts: tuple[Part, ...]
    counts: Counts

    @property
    def cases(self) -> int:
        return sum(part.end - part.first for part in self.parts)

    @property
    def holds(self) -> bool:
        return not (self.counts.wrong_bytes or self.counts.disagreements or self.counts.strays)


def judge(bench: Bench, shard: Shard, is_interrupted: Callable[[], bool]) -> Judged | None:
    """What is found in a shard, or in as much of it as was judged before an interrupt; None where that is nothing."""
    first, end = shard.part

    def numbers() -> Iterator[int]:
        for number in range(first, end):
            if is_interrupted():
                return
            yield number

    outcome = bench.run(shard.campaign.seed, numbers())
    if not outcome.cases:
        return None
    return Judged(shard._replace(part=Part(first, first + outcome.cases)), _counts_of(outcome))


def _counts_of(outcome: Outcome) -> Counts:
    facts = outcome._asdict()
    return Counts(**{name: facts[name] for name in Counts._fields if name != "examples"}, examples=_texts(outcome))


def _texts(outcome: Outcome) -> tuple[str, ...]:
    return tuple(map(str, outcome.examples))


def left_of(wanted: Part, done: Iterable[Part]) -> list[Part]:
    """What is still to be judged."""
    left, position = [], wanted.first
    for part in sorted(done):
        if part.first > position:
            left.append(Part(position, min(part.first, wanted.end)))
        position = max(position, part.end)
    return [part for part in [*left, Part(position, wanted.end)] if part.first < min(part.end, wanted.end)]


def cut(parts: Iterable[Part]) -> Iterator[Part]:
    """At multiples of `SHARD_CASES`, so that different commands cut at the same places."""
    for first, end in parts:
        while first < end:
            border = min(end, first - first % SHARD_CASES + SHARD_CASES)
            yield Part(first, border)
            first = border


def together(campaign: Campaign, judged: Iterable[Judged]) -> Total:
    """Each case counted once. Raises `CampaignError` where that cannot be, or where two found otherwise in a shard."""
    taken: list[Judged] = []
    for found in sorted(judged, key=lambda found: (found.shard.part.first, -found.shard.part.end)):
        if taken and found.shard.part.first < taken[-1].shard.part.end:
            _check_again(taken[-1], found)
        else:
            taken.append(found)
    return Total(campaign, _joined(found.shard.part for found in taken), _sum([found.counts for found in taken]))


def _check_again(one: Judged, other: Judged) -> None:
    """Another that lies within the one is not needed."""
    if other.shard.part.end > one.shard.part.end:
        names = f"{one.shard.file_name} and {other.shard.file_name}"
        raise CampaignError(f"some cases stand both in {names}: leave one of them out")
    if one.shard == other.shard and one.counts != other.counts:
        raise CampaignError(f"{one.shard.file_name} was judged twice, and not alike: judge it in another --state")


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].end == part.first:
            joined[-1] = Part(joined[-1].first, part.end)
        else:
            joined.append(part)
    return tuple(joined)


def _sum(counts: Sequence[Counts]) -> Counts:
    verdicts, faults = Counter[Verdict](), Counter[FaultKind]()
    for one in counts:
        verdicts.update(one.verdicts)
        faults.update(one.faults)
    return Counts(
        readers=counts[0].readers if counts else (),
        wrong_bytes=sum(one.wrong_bytes for one in counts),
        disagreements=sum(one.disagreements for one in counts),
        strays=sum(one.strays for one in counts),
        verdicts={verdict: verdicts[verdict] for verdict in Verdict},
        faults={kind: faults[kind] for kind in FaultKind},
        examples=tuple(example for one in counts for example in one.examples)[:DISAGREEMENTS_MAX],
        verdict_digest=sum_of_digests(one.verdict_digest for one in counts),
    )
