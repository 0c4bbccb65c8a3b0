"""The scenarios of the laboratory: which small machines there are. A table alone: the command line names them."""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """A memory, data before zeros, and into how many pieces the part of the region falls that its frames take."""

    name: str
    data_pages: int
    zero_pages: int
    writes_in_flight: int

    @property
    def pages(self) -> int:
        return self.data_pages + self.zero_pages


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("pages", data_pages=64, zero_pages=0, writes_in_flight=8),
        Scenario("zeros", data_pages=48, zero_pages=16, writes_in_flight=8),
        Scenario("requests", data_pages=512, zero_pages=0, writes_in_flight=8),
    )
}
