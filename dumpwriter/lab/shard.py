"""Shards: a campaign cut by the numbers of its cases, what was found in each, and all of it put together again.

A shard is named by the build that judges, scenario, seed and its cases, and by nothing of where or when it is judged.
So it may be judged twice, or on several machines, and what is found is the same.
"""

from __future__ import annotations

import bisect
import operator
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.campaign import Counts
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.tally import DISAGREEMENTS_MAX, sum_of_digests
from dumpwriter.verdict import Verdict
from vdisk.errors import CampaignError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from dumpwriter.lab.campaign import Bench

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

    def meets(self, other: Part) -> bool:
        return self.first < other.end and other.first < self.end


class Shard(NamedTuple):
    """A part of a campaign."""

    campaign: Campaign
    part: Part

    @property
    def file_name(self) -> str:
        (build, scenario, seed), (first, end) = self
        return f"{scenario}-{seed}-{first}-{end}-{build[:16]}.json"


class Judged(NamedTuple):
    """A shard, and what was found in its cases; `path` is that of the file which said so, if one did."""

    shard: Shard
    counts: Counts
    path: str = ""

    @property
    def name(self) -> str:
        return self.path or self.shard.file_name


class Total(NamedTuple):
    """What was found in parts of a campaign; the parts are ascending, disjoint and joined."""

    campaign: Campaign
    parts: tuple[Part, ...]
    counts: Counts


def judge(bench: Bench, shard: Shard, is_interrupted: Callable[[], bool]) -> Judged | None:
    """What is found in a shard, or in as much of it as was judged before an interrupt; None where that is nothing."""
    first, end = shard.part

    def numbers() -> Iterator[int]:
        for number in range(first, end):
            if is_interrupted():
                return
            yield number

    counts = bench.run(shard.campaign.seed, numbers())
    return Judged(shard._replace(part=Part(first, first + counts.cases)), counts) if counts.cases else None


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


def apart(judged: Iterable[Judged]) -> list[Judged]:
    """Ascending, no case in two of them, and as many cases in all of them as can be.

    What was found in a shard cannot be divided, so of two that overlap in part only one can be counted.
    """
    ends, best = [0], [_Chain(0, 0, None)]  # by ascending ends, each of more cases than those before it
    for found in sorted(judged, key=lambda found: (found.shard.part.end, -found.shard.part.first)):
        first, end = found.shard.part
        before = bisect.bisect_right(ends, first) - 1
        cases = best[before].cases + end - first
        if cases > best[-1].cases:
            ends.append(end)
            best.append(_Chain(cases, before, found))
    return _members(best)


class _Chain(NamedTuple):
    """Shards one behind the other: how many cases they have, which chain goes before, and the last of them."""

    cases: int
    before: int
    last: Judged | None


def _members(chains: Sequence[_Chain]) -> list[Judged]:
    """Of the last chain."""
    members, chain = [], chains[-1]
    while chain.last is not None:
        members.append(chain.last)
        chain = chains[chain.before]
    return members[::-1]


def together(campaign: Campaign, judged: Collection[Judged]) -> Total:
    """Each case counted once. Raises `CampaignError` where that cannot be, or where two did not find alike."""
    counted = apart(judged)
    parts = _joined(found.shard.part for found in counted)
    for found in judged:
        _check_counted(found, parts)
    check_alike(judged, counted)
    return Total(campaign, parts, _sum([found.counts for found in counted]))


def _check_counted(found: Judged, parts: Sequence[Part]) -> None:
    for first, end in left_of(found.shard.part, parts):
        raise CampaignError(
            f"cases {first} to {end - 1} stand only in {found.name}, which overlaps others: judge them by themselves "
            f"in another --state (--first {first} --cases {end - first}), or leave that file out"
        )


def check_alike(judged: Iterable[Judged], counted: Sequence[Judged]) -> None:
    """Raises `CampaignError` where one of them cannot have found what those that are counted found of its cases.

    The latter are ascending and apart. Where they have all cases of one that does not hold, they do not hold either.
    """
    for found in judged:
        met = _meeting(counted, found.shard.part)
        if not _is_alike(found, met):
            others = f" and {len(met) - 1} more" if len(met) > 1 else ""
            raise CampaignError(
                f"{found.name} and {met[0].name}{others} tell of the same cases otherwise: judge them in another "
                "--state, and leave out the file that errs"
            )


def _is_alike(found: Judged, met: Sequence[Judged]) -> bool:
    """Nothing is found in fewer cases more often than in more, and in the same cases everything alike."""
    part = found.shard.part
    within = [one for one in met if not left_of(one.shard.part, [part])]
    inner, outer = (_sum([one.counts for one in some]) for some in (within, met))
    if _joined(one.shard.part for one in within) == (part,):
        return inner == found.counts
    has_all = not left_of(part, [one.shard.part for one in met])
    return _is_at_most(inner, found.counts) and (not has_all or _is_at_most(found.counts, outer))


def _is_at_most(fewer: Counts, more: Counts) -> bool:
    return all(map(operator.le, _figures(fewer), _figures(more)))


def _figures(counts: Counts) -> list[int]:
    """All that more cases can only add to."""
    verdicts, faults = (counts.verdicts[verdict] for verdict in Verdict), (counts.faults[kind] for kind in FaultKind)
    return [counts.wrong_bytes, counts.disagreements, counts.strays, *verdicts, *faults]


def _meeting(ascending: Sequence[Judged], part: Part) -> Sequence[Judged]:
    first = bisect.bisect_right(ascending, part.first, key=lambda one: one.shard.part.end)
    end = bisect.bisect_left(ascending, part.end, key=lambda one: one.shard.part.first)
    return ascending[first:end]


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
