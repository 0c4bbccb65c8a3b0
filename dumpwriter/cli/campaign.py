"""lab run and lab merge: cases drawn at random, judged in shards, and what was found in all of them."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.campaign.build import build_digest
from dumpwriter.campaign.jobs import INTERRUPTS, judge_all
from dumpwriter.campaign.store import Store
from dumpwriter.cli import FAILED_EXIT_CODE, INTERRUPTED_EXIT_CODE
from dumpwriter.cli.findings import print_findings, versions
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.formats.region import VERSION
from dumpwriter.lab.shard import Campaign, Part, Shard, apart, check_alike, cut, left_of, together
from dumpwriter.sizes import NUMBER_MAX
from dumpwriter.verdict import Verdict
from vdisk.errors import CampaignError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dumpwriter.lab.shard import Judged, Total


def run(arguments: argparse.Namespace) -> int:
    """Ctrl-C ends it behind the cases that are being judged; what there is until then is told, and what is left."""
    campaign = Campaign(build_digest(), arguments.scenario, arguments.seed)
    wanted = _wanted(arguments.first, arguments.cases)
    store = _store(arguments.state)
    kept = _kept(store, campaign)
    known = [judged for judged in apart(kept) if judged.shard.part.meets(wanted)]  # each as a whole
    left, began = left_of(wanted, [judged.shard.part for judged in known]), time.monotonic()
    now = list(_judge(campaign, left, arguments.jobs, store))
    effort = Effort(_cases(judged.shard.part for judged in now), time.monotonic() - began)
    total = together(campaign, [*known, *now])
    check_alike(kept, apart([*known, *now]))
    left = left_of(wanted, total.parts)
    if arguments.json:
        facts = {"first": wanted.first, **effort._asdict(), "left": [_as_arguments(part) for part in left]}
        print_json(_document(total) | facts | {"versions": versions(format=VERSION)})
    else:
        print(f"{_headline(total)}; {effort}")
        print_findings(total.counts)
        for part in left:
            print("  left: --first {first} --cases {cases}".format(**_as_arguments(part)))
    if not total.counts.holds:
        return FAILED_EXIT_CODE
    return INTERRUPTED_EXIT_CODE if left else 0


class Effort(NamedTuple):
    """What this run of the command did itself."""

    judged_now: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.judged_now} judged now, {self.judged_now / max(self.seconds, 0.001):.0f} cases/s"


def _wanted(first: int, cases: int) -> Part:
    if first + cases > NUMBER_MAX + 1:
        raise UsageError(f"the last case would have the number {first + cases - 1}: give one up to {NUMBER_MAX}")
    return Part(first, first + cases)


def _judge(campaign: Campaign, parts: Sequence[Part], jobs: int, store: Store | None) -> Iterator[Judged]:
    """Shard by shard. Each is kept as soon as it is judged."""
    shards = (Shard(campaign, part) for part in cut(parts))  # one after the other: there may be too many for a list
    cases, began, verdicts = _cases(parts), time.monotonic(), Counter[Verdict]()
    with _until_interrupted() as is_interrupted, progress_bar("run") as show:
        for judged in judge_all(shards, jobs, is_interrupted):
            if store is not None:
                store.save(judged)
            verdicts.update(judged.counts.verdicts)
            pace = verdicts.total() / (time.monotonic() - began)
            said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
            show(verdicts.total(), cases, f"{pace:.0f} cases/s: {said}")
            yield judged


def _cases(parts: Iterable[Part]) -> int:
    return sum(part.end - part.first for part in parts)


def run_merge(arguments: argparse.Namespace) -> int:
    """Each campaign for itself: what other sources found is not the same, nor what other seeds did."""
    by_campaign: dict[Campaign, list[Judged]] = {}
    for directory in arguments.directories:
        for judged in Store(directory).all():
            by_campaign.setdefault(judged.shard.campaign, []).append(judged)
    if not by_campaign:
        raise CampaignError(f"no shard in {', '.join(arguments.directories)}: lab run --state leaves them")
    totals = [together(campaign, by_campaign[campaign]) for campaign in sorted(by_campaign)]
    if arguments.json:
        print_json(
            {
                "cases": sum(total.counts.cases for total in totals),
                "wrong_bytes": sum(total.counts.wrong_bytes for total in totals),
                "holds": all(total.counts.holds for total in totals),
                "campaigns": [_document(total) for total in totals],
            }
        )
    else:
        for total in totals:
            print(f"{_headline(total)}, build {total.campaign.build[:16]}")
            print_findings(total.counts)
        wrong_bytes = sum(total.counts.wrong_bytes for total in totals)
        print(f"{sum(total.counts.cases for total in totals)} cases in all; {wrong_bytes} wrong bytes")
    return 0 if all(total.counts.holds for total in totals) else FAILED_EXIT_CODE


def _store(directory: str | None) -> Store | None:
    """Raises `UsageError` where the directory has no name: a shell's variable that is not set leaves an empty one."""
    if directory is None:
        return None
    if not directory:
        raise UsageError("--state is empty: name a directory to keep shards in, or leave the option out")
    store = Store(directory)
    store.make()
    return store


def _kept(store: Store | None, campaign: Campaign) -> list[Judged]:
    """What was judged before."""
    if store is None:
        return []
    return list(store.of(campaign, lambda problem: print(f"ghostdump: {problem}", file=sys.stderr)))


@contextlib.contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether somebody wants it to end."""
    wishes: list[int] = []
    before = {one: signal.signal(one, lambda number, _: wishes.append(number)) for one in INTERRUPTS}
    try:
        yield lambda: bool(wishes)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _headline(total: Total) -> str:
    (_, scenario, seed), parts, counts = total
    cases = " and ".join(f"{first} to {end - 1}" for first, end in parts) or "none"
    return f"{scenario}: cases {cases} of seed {seed}; {counts.wrong_bytes} wrong bytes"


def _as_arguments(part: Part) -> dict[str, int]:
    return {"first": part.first, "cases": part.end - part.first}


def _document(total: Total) -> dict[str, Any]:
    parts = [part._asdict() for part in total.parts]
    facts = {"cases": total.counts.cases, "parts": parts, "holds": total.counts.holds}
    return total.campaign._asdict() | facts | total.counts._asdict()
