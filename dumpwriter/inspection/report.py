"""The report that recovery left beside a vmcore, as far as it is about the dump in question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.dumpfile.pageruns import PageRuns

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Dump

TOLD = ("verdict", "reason", "level", "cause", "bugcheck", "dump_id")


def report_about(document: object, dump: Dump) -> dict[str, Any] | None:
    """The part of a report that says more than the dump does; None where it counts other pages than the dump has."""
    if not isinstance(document, dict):
        return None
    if document.get("pages_written") != PageRuns.of(dump.contents.present).page_count:
        return None
    return {field: document.get(field) for field in TOLD}
