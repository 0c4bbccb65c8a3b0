"""Planted faults of how a dump is put together again: read once more, rebuilt, opened, copied out and given up."""

from __future__ import annotations

from dumpwriter.lab.planting import PlantedFault

SLOTS = "dumpwriter.recovery.slots"
REBUILDING = "dumpwriter.recovery.rebuilding"
SCAN = "dumpwriter.recovery.scan"
JUDGEMENT = "dumpwriter.recovery.judgement"
EXTRACTION = "dumpwriter.recovery.extraction"
OFFLINE = "dumpwriter.recovery.offline"
UNSEALING = "dumpwriter.recovery.unsealing"
BLOBS = "dumpwriter.recovery.blobs"
CIPHER = "dumpwriter.cipher"
FRAMES = "dumpwriter.frames"

FAULTS = (
    PlantedFault(
        "parity-in-one-piece",
        REBUILDING,
        "    return (rest, *others) if rest.length_bytes else tuple(others)\n",
        "    return (rest,)\n",
        "A page that was rebuilt by parity in several pieces is not read again.",
    ),
    PlantedFault(
        "unreadable-is-not-lost",
        REBUILDING,
        "if self._given[slot] != WHOLE]",
        "if self._given[slot] < 2]",
        "A frame that cannot be read is not rebuilt.",
    ),
    PlantedFault(
        "eight-parity-frames",
        REBUILDING,
        "        for sequence in self._parity:\n",
        "        for sequence in self._parity[:8]:\n",
        "No more than eight frames are rebuilt.",
    ),
    PlantedFault(
        "rebuilt-is-still-unread",
        SCAN,
        "        self._reads_failed -= rebuilt.instead.reads_failed\n",
        "",
        "A frame that was rebuilt still counts as one that another try may read.",
    ),
    PlantedFault(
        "reads-for-rebuilding-not-counted",
        SCAN,
        "        self._reads_failed += rebuilding.reads_failed\n",
        "",
        "A dump is given up though another try might rebuild more of it.",
    ),
    PlantedFault(
        "as-many-slots-as-carved",
        SCAN,
        "disk.size_bytes // SLOT_SIZE_BYTES)",
        "len(frames))",
        "A carved dump that lacks a frame has slots that nobody looks at.",
    ),
    PlantedFault(
        "closed-dumps-rebuild-in-silence",
        SCAN,
        "            closed.size_bytes,\n            frames_rebuilt=self._frames_rebuilt,\n",
        "            closed.size_bytes,\n",
        "It is not told of a sealed dump how much of it had to be rebuilt.",
    ),
    PlantedFault(
        "carved-reads-pass-in-silence",
        SLOTS,
        "            return PAYLOAD_UNREADABLE\n        position_bytes",
        "            return NOTHING\n        position_bytes",
        "A carved frame that cannot be read counts as one that is not there.",
    ),
    PlantedFault(
        "closed-but-for-a-page",
        JUDGEMENT,
        "if has_metadata and present == wanted:",
        "if has_metadata and present >= wanted - 1:",
        "A sealed dump that lacks one page is called COMPLETE.",
    ),
    PlantedFault(
        "whole-of-nothing",
        JUDGEMENT,
        "if evidence.metadata is not None and wanted and is_whole:",
        "if evidence.metadata is not None and is_whole:",
        "A dump that was to hold no page is called COMPLETE.",
    ),
    PlantedFault(
        "two-answers-taken",
        EXTRACTION,
        "    if (again.present, again.secondary) != (findings.present, findings.secondary):\n",
        "    if again.present < () and findings:\n",
        "A second reading that gives less leaves zeros in a vmcore that is called COMPLETE.",
    ),
    PlantedFault(
        "any-copy-is-the-copy",
        EXTRACTION,
        "if all(_digest(_finished(store, name, one)) == digest for one, digest in (expected | secondary).items()):",
        "if expected | secondary:",
        "A copy that is not any more what it was is taken for the dump, which is then given up.",
    ),
    PlantedFault(
        "copy-found-and-not-settled",
        EXTRACTION,
        "            store.settle(name)\n",
        "",
        "A dump is given up for a copy that may not have come to the disk.",
    ),
    PlantedFault(
        "unread-dumps-given-up",
        OFFLINE,
        "(findings.verdict == Verdict.PARTIAL and not findings.reads_failed)",
        "findings.verdict == Verdict.PARTIAL",
        "A dump is given up though another try may read more of it.",
    ),
    PlantedFault(
        "partial-dumps-never-given-up",
        OFFLINE,
        "(findings.verdict == Verdict.PARTIAL and not findings.reads_failed)",
        "not findings.reads_failed",
        "A place without a dump is marked as one that was taken out.",
    ),
    PlantedFault(
        "hibernated-memory-given-up",
        OFFLINE,
        "if may_be_marked(findings) and is_writable and not place.is_hibernated:",
        "if may_be_marked(findings) and is_writable:",
        "Who looks at a hibernated machine takes its memory away.",
    ),
    PlantedFault(
        "first-frame-decides-the-key",
        UNSEALING,
        "        cipher = self._cipher_of(frame.seal)\n",
        "        cipher = self._cipher = self._cipher_of(frame.seal)\n        self._wrapped = frame.seal.wrapped\n",
        "A forged frame before the true ones locks the key out of the dump.",
    ),
    PlantedFault(
        "header-nonce-comes-twice",
        CIPHER,
        "        nonce = new_nonce(HEADER_SEQUENCE)\n",
        "        nonce = HEADER_SEQUENCE.to_bytes(4, 'little') + bytes(8)\n",
        "Two headers are sealed with one nonce, which gives the cipher's key of tags away.",
    ),
    PlantedFault(
        "blobs-cut-short",
        BLOBS,
        "len(content) == next(iter(pieces.values())).size_bytes",
        "len(content) <= next(iter(pieces.values())).size_bytes",
        "A blob whose end is lost is given back as if it were whole.",
    ),
    PlantedFault(
        "blobs-too-long",
        BLOBS,
        "len(content) == next(iter(pieces.values())).size_bytes",
        "len(content) >= next(iter(pieces.values())).size_bytes",
        "A blob that is longer than it says is given back.",
    ),
    PlantedFault(
        "blob-digest-begins-alike",
        BLOBS,
        "blake3.blake3(content).digest() != row.digest)",
        "blake3.blake3(content).digest()[:2] != row.digest[:2])",
        "A blob is believed for two bytes of its digest.",
    ),
    PlantedFault(
        "digest-begins-alike",
        FRAMES,
        "    return digest == frame.header.digest\n",
        "    return digest[:2] == frame.header.digest[:2]\n",
        "A frame is believed for two bytes of its digest.",
    ),
)
