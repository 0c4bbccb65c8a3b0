"""The scenarios of the laboratory: which small machines there are. A table alone: the command line names them."""

from __future__ import annotations

from typing import NamedTuple

from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.formats.region import COVERED_PAGES_MAX
from dumpwriter.verdict import Verdict


class Scenario(NamedTuple):
    """A memory, data before zeros, and into how many pieces the part of the region falls that its frames take.

    A region that lacks slots has no room for the pages that are worth the least. One with slots to spare has room for
    so many frames that their own slot does not take.
    """

    name: str
    data_pages: int
    zero_pages: int
    writes_in_flight: int
    slots_lacking: int = 0
    slots_spare: int = 0
    parity_percent: int = NO_PARITY

    @property
    def pages(self) -> int:
        return self.data_pages + self.zero_pages

    @property
    def planned(self) -> Verdict:
        """What comes out where nothing goes wrong."""
        return Verdict.PARTIAL if self.slots_lacking else Verdict.COMPLETE


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("pages", data_pages=64, zero_pages=0, writes_in_flight=8),
        Scenario("zeros", data_pages=48, zero_pages=16, writes_in_flight=8),
        Scenario("short", data_pages=128, zero_pages=16, writes_in_flight=8, slots_lacking=1),
        Scenario("requests", data_pages=512, zero_pages=0, writes_in_flight=8),
        Scenario("parity", 14 * COVERED_PAGES_MAX, 0, writes_in_flight=1, slots_spare=2, parity_percent=100),
    )
}
