"""Checks of where frames are to lie, in dumps of all sizes: what parity there is, and what room a region has for it."""

from __future__ import annotations

import itertools
from collections import Counter

from dumpwriter.crash.plan import SECONDARY_FRAMES_MAX, MemoryPart, plan_dump, region_size_bytes
from dumpwriter.crash.protection import parity_sets, slots_of
from dumpwriter.formats.region import PAGE_SIZE_BYTES, DumpLevel, PageRun
from dumpwriter.frames import slot_count
from dumpwriter.lab.checks.refuted import must

# As docs/FORMAT.md and docs/DESIGN.md have it.
MEBIBYTE_SLOTS = 5  # that a run of 1 MiB can touch
MEBIBYTE_FRAMES = 24  # of a dump of 6 MiB, from which on such a run comes back
GROUPS = 8
LARGE_FRAMES = 64  # from which on there are all groups, and parity is in proportion
SPARE_SLOTS = 8


def sets_of_all_sizes() -> None:
    """Every frame has a group, and slots that follow each other have others: all that a run of 1 MiB can touch."""
    for frames, percent in itertools.product(range(2, 200), (1, 6, 12, 50, 100)):
        sets = parity_sets(frames, 4 * frames + 8, percent)
        what = f"{frames} frames with {percent} % of parity"
        groups = {
            slot: (one.number, one.group_of(slot)) for one in sets for slot in (*one.frame_slots, *one.parity_slots)
        }
        data = [slot for one in sets for slot in one.frame_slots]
        must(data == list(slots_of(frames, sets)) and len(data) == frames, f"{what}: not every frame has a group")
        must(sorted(groups) == list(range(len(groups))), f"{what}: there are slots between that nobody takes")
        covered = Counter(groups[slot] for slot in data)
        must(covered.keys() == set(groups.values()), f"{what}: a parity frame has nothing to cover")
        in_a_row = MEBIBYTE_SLOTS if frames >= MEBIBYTE_FRAMES else 1
        rows = (range(slot, min(slot + in_a_row, len(groups))) for slot in range(len(groups)))
        must(
            all(len({groups[slot] for slot in row}) == len(row) for row in rows), f"{what}: a run takes two of a group"
        )
        most = -(-100 // percent) * (1 if frames >= LARGE_FRAMES else GROUPS) + GROUPS
        must(max(covered.values()) <= most, f"{what}: a parity frame covers {max(covered.values())} others")


def regions_for_parity() -> None:
    """A region of the size that is asked for has parity for all that there can be, and slots to spare behind it."""
    for pages, percent in itertools.product((64, 2048, 20_000), (0, 6, 100)):
        size_bytes = region_size_bytes(pages * PAGE_SIZE_BYTES, percent)
        part = MemoryPart(1, PageRun(0, pages), is_zero=False)
        plan = plan_dump([part], size_bytes, DumpLevel.AUTOMATIC, SECONDARY_FRAMES_MAX, percent)
        what = f"the region for {pages} pages with {percent} % of parity"
        must(plan.pages_planned == pages, f"{what} holds {plan.pages_planned}")
        uncovered = [frame.sequence for frame in plan.frames if plan.set_of(frame.sequence) is None]
        must(len(uncovered) == (0 if percent else len(plan.frames)), f"{what}: slots {uncovered} have no parity")
        spare_slots = plan.spare_slots(size_bytes)
        must(
            len(spare_slots) == SPARE_SLOTS and spare_slots.stop <= slot_count(size_bytes),
            f"{what}: {spare_slots} spare",
        )
