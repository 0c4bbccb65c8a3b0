"""The image file as a disk, where the host's system calls do less than was asked."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from vdisk.errors import DeviceError
from vdisk.imagefile import ImageFile, aligned_buffer, open_locked, reopen_direct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

SIZE_BYTES = 1 << 20
CONTENT = bytes(range(256)) * 64


@pytest.fixture(params=["through the page cache", "direct"])
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ImageFile]:
    (tmp_path / "disk.img").write_bytes(bytes(SIZE_BYTES))
    descriptors = [open_locked(str(tmp_path / "disk.img"))]
    if request.param == "direct":
        descriptors.append(reopen_direct(descriptors[0]))
    yield ImageFile(descriptors[-1])
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize("most_bytes", [4096, 1536])
def test_what_the_host_takes_in_part_is_gone_on_with(
    image: ImageFile, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, view, offset: pwrite(file, view[:most_bytes], offset))
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: preadv(file, [views[0][:most_bytes]], offset))
    content = aligned_buffer(len(CONTENT))
    content[:] = CONTENT
    image.write_from(8192, content)
    assert image.read(8192, len(CONTENT)) == CONTENT
    assert image.read(4096, 4096) == bytes(4096)


def test_a_host_that_takes_nothing_is_not_asked_for_ever(image: ImageFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_nothing(file: int, view: Buffer, offset: int) -> int:
        return 0

    monkeypatch.setattr(os, "pwrite", take_nothing)
    with pytest.raises(DeviceError, match="write at 8192: the host took nothing"):
        image.write_from(8192, CONTENT)


def test_an_image_that_was_truncated_says_so(image: ImageFile) -> None:
    os.ftruncate(image.descriptor, 8192)
    with pytest.raises(DeviceError, match="read at 8192: the image file ends there; it was truncated"):
        image.read(4096, 8192)


def test_a_host_that_is_full_half_way_says_so(image: ImageFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full_behind_the_first_block(file: int, view: memoryview, offset: int) -> int:
        if offset >= 12288:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, view[:4096], offset)

    monkeypatch.setattr(os, "pwrite", full_behind_the_first_block)
    with pytest.raises(DeviceError, match="write at 8192: the host's filesystem is full"):
        image.write_from(8192, aligned_buffer(len(CONTENT)))
