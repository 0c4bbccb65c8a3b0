"""What the laboratory found, as its experiments tell it: verdicts, examples, and by what it was found."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dumpwriter.lab.campaign import Counts
    from dumpwriter.lab.proof import Certificate


def print_findings(found: Certificate | Counts) -> None:
    for verdict, count in found.verdicts.items():
        print(f"  {verdict:<9}{count:>9}")
    for example in found.examples:
        print(f"  {example}")
    if found.disagreements:
        print(f"  {found.disagreements} disagreements in all")
    if found.strays:
        print(f"  the writer left the region's extents {found.strays} times")
    print(f"  verdicts {found.verdict_digest}")


def versions(**others: str | int) -> dict[str, str | int]:
    """Of ghostdump and of Python, and what else has a say in what is found."""
    return {"ghostdump": version("ghostdump"), "python": platform.python_version(), **others}
