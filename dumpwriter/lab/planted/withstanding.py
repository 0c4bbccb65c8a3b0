"""Planted faults of what a dump must withstand: what parity covers, what is moved, what is said of frames that failed."""

from __future__ import annotations

from dumpwriter.lab.planting import PlantedFault

DUMP = "dumpwriter.crash.dump"
PARITY = "dumpwriter.crash.parity"
PLAN = "dumpwriter.crash.plan"
PROTECTION = "dumpwriter.crash.protection"

FAULTS = (
    PlantedFault(
        "last-request-of-a-set-uncounted",
        PROTECTION,
        "return -(-self.frame_count // REQUEST_FRAMES)",
        "return max(1, self.frame_count // REQUEST_FRAMES)",
        "A set whose last request is not full has its parity written before that request, and without it.",
    ),
    PlantedFault(
        "four-groups-for-a-mebibyte",
        PROTECTION,
        "MEBIBYTE_GROUPS = 5",
        "MEBIBYTE_GROUPS = 4",
        "A run of 1 MiB takes two frames of a group, and they do not come back.",
    ),
    PlantedFault(
        "few-groups-in-larger-dumps",
        PROTECTION,
        "MEBIBYTE_FRAMES_MIN = 24",
        "MEBIBYTE_FRAMES_MIN = 64",
        "In dumps of 6 MiB to 16 MiB a run of 1 MiB takes two frames of a group.",
    ),
    PlantedFault(
        "few-groups-in-large-dumps",
        PROTECTION,
        "GROUPS_MAX = 8",
        "GROUPS_MAX = 4",
        "In dumps of all sizes a run of 1 MiB takes two frames of a group.",
    ),
    PlantedFault(
        "groups-of-neighbours",
        PROTECTION,
        "return (slot - self.first_slot) % self.groups",
        "return (slot - self.first_slot) // 2 % self.groups",
        "Slots that follow each other are of one group: a bad block over both costs two frames of it.",
    ),
    PlantedFault(
        "last-set-without-parity",
        PROTECTION,
        "    yield frame_count\n",
        "    if frame_count == full:\n        yield frame_count\n",
        "The last set has no parity where it is shorter or longer than the others.",
    ),
    PlantedFault(
        "room-for-one-set-anyhow",
        PROTECTION,
        "room = max(0, slot_count - frame_count) // groups",
        "room = 1 + max(0, slot_count - frame_count) // groups",
        "A set is given parity for which the region has no room.",
    ),
    PlantedFault(
        "room-for-one-set-less",
        PROTECTION,
        "if len(sets) < room:",
        "if len(sets) + 1 < room:",
        "A set has no parity though there is room for it.",
    ),
    PlantedFault(
        "frames-tried-again-not-covered",
        DUMP,
        "        progress.count_written([frame], content.nbytes)\n        _cover(job, frame, frame.sequence, content)\n",
        "        progress.count_written([frame], content.nbytes)\n",
        "Where one frame of a request failed, parity covers none of the others.",
    ),
    PlantedFault(
        "frames-of-requests-not-covered",
        DUMP,
        "    for frame, content in zip(frames, contents, strict=True):\n        _cover(",
        "    for frame, content in zip(frames[1:], contents[1:], strict=True):\n        _cover(",
        "Parity does not cover the first frame of a request.",
    ),
    PlantedFault(
        "first-spare-slot-for-all",
        DUMP,
        "return spare_slots[self._spares_tried - 1]",
        "return spare_slots[0]",
        "All frames that are moved go to one slot, one over the other.",
    ),
    PlantedFault(
        "one-spare-slot-tried",
        DUMP,
        "        except DeviceError:\n            continue\n",
        "        except DeviceError:\n            break\n",
        "A frame is given up where the first spare slot is bad, too.",
    ),
    PlantedFault(
        "parity-sealed",
        DUMP,
        "sealer = UNSEALED if frame.kind == FrameKind.PARITY else job.sealer",
        "sealer = job.sealer",
        "Parity of a sealed dump is sealed, and nobody believes it.",
    ),
    PlantedFault(
        "always-through",
        DUMP,
        "ending = DumpEnding.TIME_BUDGET if progress.is_out_of_time else DumpEnding.THROUGH",
        "ending = DumpEnding.THROUGH",
        "A dump that the time budget ended says that it was written to its end.",
    ),
    PlantedFault(
        "failed-frames-not-told",
        DUMP,
        "frames_failed=progress.frames_failed",
        "frames_failed=0",
        "The header says of no frame that it failed.",
    ),
    PlantedFault(
        "unreadable-memory-ends-a-request",
        DUMP,
        "        except OSError as failure:\n            progress.count_failed(failure)\n        else:\n",
        "        except OSError as failure:\n            progress.count_failed(failure)\n            return\n        else:\n",
        "Behind a page of memory that cannot be read, nothing of the request is written.",
    ),
    PlantedFault(
        "parity-refused-not-tried-again",
        DUMP,
        "        for frame, content in zip(frames, contents, strict=True):\n",
        "        if frames[0].kind == FrameKind.PARITY:\n            return\n"
        "        for frame, content in zip(frames, contents, strict=True):\n",
        "Parity whose write fails once is given up.",
    ),
    PlantedFault(
        "lost-frame-made-anew",
        DUMP,
        "        job.parity.cover_lost(frame.sequence, content)\n",
        "        job.parity.cover_lost(frame.sequence, _fill_slot(job, frame, elsewhere))\n",
        "Of a sealed frame that came though it was refused, parity has other bytes than the disk.",
    ),
    PlantedFault(
        "spare-slot-for-parity-alone",
        DUMP,
        "while (spare := progress.try_spare(job.spare_slots)) is not None:",
        "while frame.kind == FrameKind.PARITY and (spare := progress.try_spare(job.spare_slots)) is not None:",
        "Only parity is moved to a spare slot.",
    ),
    PlantedFault(
        "moved-frames-not-counted",
        DUMP,
        "progress.count_written([frame], moved.nbytes, moved=1)",
        "progress.count_written([frame], moved.nbytes)",
        "The header says of no frame that it was moved.",
    ),
    PlantedFault(
        "unreadable-memory-not-counted",
        DUMP,
        "        except OSError as failure:\n            progress.count_failed(failure)\n        else:\n",
        "        except OSError:\n            pass\n        else:\n",
        "The header does not count the frames whose memory cannot be read.",
    ),
    PlantedFault(
        "spent-groups-stay-spent",
        PARITY,
        "        self.groups_spent.clear()\n",
        "",
        "Where a set gave a frame back that no slot took, later sets do not.",
    ),
    PlantedFault(
        "covers-of-the-set-before",
        PARITY,
        "            covers.clear()\n",
        "",
        "Parity names the frames of the set before as well.",
    ),
    PlantedFault(
        "bytes-of-the-set-before",
        PARITY,
        "            accumulator.clear()\n",
        "",
        "The XOR of a set goes on from that of the set before.",
    ),
    PlantedFault(
        "parity-released-never",
        PARITY,
        "                self._free.append(buffers)\n",
        "                pass\n",
        "Only as many sets as there are buffers have parity.",
    ),
    PlantedFault(
        "no-room-for-parity",
        PLAN,
        "slots = frames + parity_slot_count(frames, parity_percent) + SPARE_SLOTS",
        "slots = frames + SPARE_SLOTS",
        "The region that is made for a memory has no room for its parity.",
    ),
    PlantedFault(
        "no-room-for-spare-slots",
        PLAN,
        "slots = frames + parity_slot_count(frames, parity_percent) + SPARE_SLOTS",
        "slots = frames + parity_slot_count(frames, parity_percent)",
        "The region that is made for a memory has no slots to spare.",
    ),
    PlantedFault(
        "parity-costs-pages",
        PLAN,
        "contents = _contents(wanted, slots + 1, secondary_frames, COVERED_PAGES_MAX)",
        "contents = _contents(wanted, slots * 9 // 10, secondary_frames, COVERED_PAGES_MAX)",
        "Where the region is small, pages are given up for parity.",
    ),
    PlantedFault(
        "spare-slots-among-the-planned",
        PLAN,
        "return range(self.frame_count, min(",
        "return range(len(self.frames), min(",
        "Frames that are moved go over parity.",
    ),
)
