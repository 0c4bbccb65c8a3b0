"""Planted faults of the judgement: what was to be there, what is missing, which verdict that makes and for which reason."""

from __future__ import annotations

from dumpwriter.lab.planting import PlantedFault

JUDGEMENT = "dumpwriter.recovery.judgement"
PAGESET = "dumpwriter.recovery.pageset"
LEVELS = "dumpwriter.levels"

FAULTS = (
    PlantedFault(
        "a-part-is-the-whole",
        JUDGEMENT,
        "if evidence.metadata is not None and wanted and is_whole:",
        "if evidence.metadata is not None and wanted:",
        "A dump that lacks pages is called COMPLETE.",
    ),
    PlantedFault(
        "whole-without-metadata",
        JUDGEMENT,
        "if evidence.metadata is not None and wanted and is_whole:",
        "if wanted and is_whole:",
        "A dump is called COMPLETE though nothing says what was to be in it.",
    ),
    PlantedFault(
        "missing-forgotten",
        JUDGEMENT,
        "        missing,\n        left_out,\n",
        "        (),\n        left_out,\n",
        "Pages that are missing are not named.",
    ),
    PlantedFault(
        "left-out-is-missing",
        JUDGEMENT,
        "wanted = wanted_runs(metadata.level, metadata.classes, memory) if metadata else memory",
        "wanted = memory",
        "What the level leaves out counts as missing.",
    ),
    PlantedFault(
        "left-out-forgotten",
        JUDGEMENT,
        "        missing,\n        left_out,\n",
        "        missing,\n        (),\n",
        "What the level leaves out is not named.",
    ),
    PlantedFault(
        "missing-is-left-out",
        JUDGEMENT,
        "left_out = tuple(PageSet.of(wanted).missing_from(present.missing_from(memory)))",
        "left_out = tuple(present.missing_from(memory))",
        "Pages that were lost are said to have been left out on purpose.",
    ),
    PlantedFault(
        "no-pages-is-partial",
        JUDGEMENT,
        "    if not present:\n        return Verdict.NONE, Reason.NO_PAGES if _was_begun(evidence) else Reason.NO_DUMP\n",
        "",
        "A dump without a page is called PARTIAL.",
    ),
    PlantedFault(
        "begun-is-not-told",
        JUDGEMENT,
        "return Verdict.NONE, Reason.NO_PAGES if _was_begun(evidence) else Reason.NO_DUMP",
        "return Verdict.NONE, Reason.NO_DUMP",
        "A dump that was begun and lost is said never to have been written.",
    ),
    PlantedFault(
        "damage-is-a-cut",
        JUDGEMENT,
        "    if evidence.frames_damaged or evidence.reads_failed:\n        return Verdict.PARTIAL, Reason.FRAMES_LOST\n",
        "",
        "Frames that are damaged are said to be missing because the dump was cut.",
    ),
    PlantedFault(
        "too-small-is-a-cut",
        JUDGEMENT,
        "if header is not None and header.pages_planned < wanted and present == header.pages_planned:",
        "if header is None:",
        "A region that is too small is told as a cut.",
    ),
    PlantedFault(
        "a-cut-is-too-small",
        JUDGEMENT,
        "if header is not None and header.pages_planned < wanted and present == header.pages_planned:",
        "if header is not None and present <= header.pages_planned:",
        "A cut is told as a region that is too small.",
    ),
    PlantedFault(
        "largest-level-that-is-begun",
        JUDGEMENT,
        "        if any(present.missing_from(wanted)):\n            break\n",
        "",
        "A dump is said to hold every level, whatever is missing.",
    ),
    PlantedFault(
        "classes-count-what-is-missing",
        JUDGEMENT,
        "counts.append(ClassCount(page_class, total, total - missing))",
        "counts.append(ClassCount(page_class, total, missing))",
        "Of every class the pages that are missing are said to be there.",
    ),
    PlantedFault(
        "classes-beside-memory",
        JUDGEMENT,
        "runs = list(intersection(named, memory))",
        "runs = named",
        "Pages that memory does not have are counted in their classes.",
    ),
    PlantedFault(
        "small-level-without-page-tables",
        LEVELS,
        "DumpLevel.SMALL: PageClass.PAGE_TABLES,",
        "DumpLevel.SMALL: PageClass.STRUCTURES,",
        "Writer and reader agree that a small dump needs no page tables.",
    ),
    PlantedFault(
        "wanted-beside-memory",
        LEVELS,
        "return list(intersection(list(valuable), memory))",
        "return list(valuable)",
        "A level asks for pages that memory does not have, and no dump is whole.",
    ),
    PlantedFault(
        "level-reads-below",
        LEVELS,
        "for rank, first, count in classes if rank <= LAST_RANK[level])",
        "for rank, first, count in classes if rank < LAST_RANK[level])",
        "Recovery asks a level for less than it should hold, and calls it whole.",
    ),
    PlantedFault(
        "intersection-skips-a-run",
        LEVELS,
        "position, other = position + (ends[0] <= ends[1]), other + (ends[1] <= ends[0])",
        "position, other = position + (ends[0] <= ends[1]), other + (ends[1] <= ends[0] + 1)",
        "Where two runs end nearly together, the next one is passed over.",
    ),
    PlantedFault(
        "page-twice",
        PAGESET,
        "if (index and self._ends[index - 1] > start) or (",
        "if (index and self._ends[index - 1] > start + 1) or (",
        "A page that is there already is added once more.",
    ),
    PlantedFault(
        "page-twice-from-the-left",
        PAGESET,
        "index < len(self._starts) and self._starts[index] < end):",
        "index < len(self._starts) and self._starts[index] < end - 1):",
        "A run whose last page is there already is added all the same.",
    ),
    PlantedFault(
        "neighbours-lose-a-page",
        PAGESET,
        "self._ends[index - 1] = self._ends.pop(index)",
        "self._ends[index - 1] = self._ends.pop(index) - 1",
        "A run that closes a gap loses the last page behind it.",
    ),
    PlantedFault(
        "missing-begins-late",
        PAGESET,
        "index = bisect_left(self._ends, position + 1)",
        "index = bisect_left(self._ends, position + 2)",
        "A run of which only the first page is looked for is passed over, and named as missing.",
    ),
    PlantedFault(
        "missing-ends-early",
        PAGESET,
        "yield PageRun(position, min(following, end) - position)",
        "yield PageRun(position, max(1, min(following, end) - position - 1))",
        "Of what is missing the last page is not named.",
    ),
)
