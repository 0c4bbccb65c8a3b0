"""Which blocks of an image are not what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def changed_blocks(before: Path, after: Path) -> set[int]:
    with before.open("rb") as old, after.open("rb") as new:
        number, changed = 0, set()
        while (left := old.read(4096)) or (right := new.read(4096)):
            right = new.read(4096) if left else right
            if left != right:
                changed.add(number)
            number += 1
    return changed
