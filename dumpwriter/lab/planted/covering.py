"""Planted faults of what spare slots and parity make up for, where writes and reads fail and where a dump is cut."""

from __future__ import annotations

from dumpwriter.lab.planting import PlantedFault

DUMP = "dumpwriter.crash.dump"
PARITY = "dumpwriter.crash.parity"
REBUILDING = "dumpwriter.recovery.rebuilding"
SLOTS = "dumpwriter.recovery.slots"
FOUND = "dumpwriter.recovery.founddump"

FAULTS = (
    PlantedFault(
        "retry-sealed-anew",
        DUMP,
        "    try:\n        job.region.write_from(frame.region_offset_bytes, content)\n",
        "    content = _fill_slot(job, frame, elsewhere)\n"
        "    try:\n        job.region.write_from(frame.region_offset_bytes, content)\n",
        "A frame that is tried again has another nonce: a request that comes late is not what parity covers.",
    ),
    PlantedFault(
        "nothing-moved",
        DUMP,
        "while (spare := progress.try_spare(job.spare_slots)) is not None:",
        "while (spare := progress.try_spare(range(0))) is not None:",
        "A frame that its own slot does not take is given up, though slots are left.",
    ),
    PlantedFault(
        "moved-frame-not-covered",
        DUMP,
        "        _cover(job, frame, spare, moved)\n",
        "",
        "Parity does not cover a frame that was moved.",
    ),
    PlantedFault(
        "moved-frame-covered-elsewhere",
        DUMP,
        "        _cover(job, frame, spare, moved)\n",
        "        _cover(job, frame, frame.sequence, moved)\n",
        "Parity names the slot that did not take a frame, not the one to which it was moved.",
    ),
    PlantedFault(
        "lost-frame-not-covered",
        DUMP,
        "        job.parity.cover_lost(frame.sequence, content)\n",
        "        pass\n",
        "A frame that no slot takes is not in its group's parity.",
    ),
    PlantedFault(
        "two-lost-frames-covered",
        PARITY,
        "            if group not in buffers.groups_spent:\n",
        "            if group >= 0:\n",
        "Of two frames of a group that no slot takes, neither comes back.",
    ),
    PlantedFault(
        "cut-set-without-parity",
        DUMP,
        "for parity_frames in job.parity.finish_begun():",
        "for parity_frames in ():",
        "A set in which the time budget ends has no parity.",
    ),
    PlantedFault(
        "committed-without-metadata",
        DUMP,
        "self.pages_written == plan.pages_wanted and self._has_metadata",
        "self.pages_written == plan.pages_wanted",
        "The writer calls a dump COMPLETE of which no metadata was written.",
    ),
    PlantedFault(
        "failed-read-for-rebuilding-forgotten",
        REBUILDING,
        "        self.reads_failed += slot.reads_failed\n",
        "",
        "A dump is marked as taken though another try might rebuild more of it.",
    ),
    PlantedFault(
        "one-read-attempt",
        SLOTS,
        "READ_ATTEMPTS = 4",
        "READ_ATTEMPTS = 1",
        "A read error that would pass costs a frame.",
    ),
    PlantedFault(
        "too-few-read-attempts",
        SLOTS,
        "READ_ATTEMPTS = 4",
        "READ_ATTEMPTS = 3",
        "Three read errors in one slot, all of which would pass, cost a frame.",
    ),
    PlantedFault(
        "page-read-once",
        FOUND,
        "            if not could_read(self._disk, physical_bytes, content[position_bytes : position_bytes + length_bytes]):\n"
        "                raise RecoveryError(TWO_ANSWERS)\n",
        "            self._disk.read_into(physical_bytes, content[position_bytes : position_bytes + length_bytes])\n",
        "Whoever reads pages one by one gives up at an error that would pass.",
    ),
    PlantedFault(
        "pages-told-twice",
        FOUND,
        "for run in filter(self._present.add, frame.runs):",
        "for run in frame.runs:",
        "Pages that lie in two frames are named twice.",
    ),
)
