"""The faults that can be planted, by the part of the product that they break. Each can be had by its name."""

from __future__ import annotations

from dumpwriter.lab.planted import (
    assembling,
    beside,
    carrying_out,
    covering,
    framing,
    judging,
    reading,
    withstanding,
)
from dumpwriter.lab.planting import PlantedFault

# What finds this one finds something wrong in the product as it is.
CONTROL = PlantedFault(
    "nothing", "dumpwriter.verdict", "class Verdict(StrEnum):", "class Verdict(StrEnum):", "Nothing is broken."
)

_ALL = (
    *framing.FAULTS,
    *carrying_out.FAULTS,
    *covering.FAULTS,
    *withstanding.FAULTS,
    *beside.FAULTS,
    *reading.FAULTS,
    *assembling.FAULTS,
    *judging.FAULTS,
)
FAULTS = {fault.name: fault for fault in _ALL}
assert len(FAULTS) == len(_ALL), "two planted faults have one name"
