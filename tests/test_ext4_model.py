"""Random operations against a plain model of a tree of files; then e2fsck, and the same tree after reopening."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import MIB, assert_disk_clean, fresh_disk
from tests.ext4_model import Model, assert_same
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem

if TYPE_CHECKING:
    from pathlib import Path

OPERATIONS = 1200


@pytest.mark.parametrize("seed", range(8))
def test_random_operations(seed: int, tmp_path: Path) -> None:
    disk = fresh_disk(16 * MIB)
    fs = Ext4Filesystem.open(disk)
    model = Model(fs, random.Random(seed))
    for _ in range(OPERATIONS):
        model.step()
    assert_same(fs, ROOT_INO, model.root)
    fs.close()
    assert_disk_clean(disk, tmp_path)
    assert_same(Ext4Filesystem.open(disk), ROOT_INO, model.root)
