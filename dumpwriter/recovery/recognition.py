"""What a file is that somebody takes for an image: one that was carried out of an image, or made of one.

Readers are loaded where a file is no image: who opens one waits for none of them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dumpwriter.commandline import command_line, opening_command_line
from vdisk.bootarea import BootArea
from vdisk.errors import FormatError, GhostdumpError, NotAnImageError, naming
from vdisk.imagefile import ImageFile, open_unlocked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.blockdevice import BlockDevice


@contextlib.contextmanager
def opened_file(path: str) -> Iterator[BlockDevice]:
    """A file that no driver stack is needed for."""
    descriptor = open_unlocked(path)
    try:
        yield ImageFile(descriptor)
    finally:
        os.close(descriptor)


def holds_sealed_dump(path: str) -> bool:
    """Whether the file is a sealed dump that was carried out of its image."""
    from dumpwriter.recovery.sealedfile import is_sealed_file

    with opened_file(path) as file:
        return is_sealed_file(file)


def holds_dump(path: str) -> bool:
    """Whether the file begins as a dump does in one of the formats that we read; what cannot be read does not."""
    from dumpwriter.dumpfile.opening import find_opener
    from dumpwriter.hostfile import HostFile

    with contextlib.suppress(GhostdumpError), HostFile(path) as file:
        return find_opener(file) is not None
    return False


@contextlib.contextmanager
def naming_image(path: str) -> Iterator[None]:
    """As `naming`; and what is no image may still be something that we know."""
    try:
        with naming(path):
            yield
    except NotAnImageError as error:
        raise NotAnImageError(_what_it_is(path) or str(error)) from None


def refuse_dumps(path: str, device: BlockDevice) -> None:
    """An image may have lost its boot record, and is looked at all the same. Raises `NotAnImageError` for a dump."""
    try:
        BootArea(device).read()
    except (FormatError, NotAnImageError):
        if known := _what_it_is(path):
            raise NotAnImageError(known) from None


def _what_it_is(path: str) -> str:
    """Of a file that is no image; empty where nobody knows."""
    if not os.path.isfile(path):
        return ""
    if holds_sealed_dump(path):
        return f"{path} is a sealed dump, and no image: {opening_command_line(path)} opens it"
    if holds_dump(path):
        return f"{path} is a dump already, and no image: {command_line('inspect', path)} tells what it holds"
    return ""
