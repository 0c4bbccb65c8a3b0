"""Secondary data: named blobs that go into a dump beside memory, and come back as files. Pure.

A blob is cut into pieces, and pieces are packed one behind the other into the payloads of SECONDARY frames.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import (
    COVERED_PAGES_MAX,
    PAGE_SIZE_BYTES,
    SECONDARY_NAME_SIZE_BYTES,
    SECONDARY_PIECE,
    SECONDARY_SIZE_BYTES_MAX,
    SecondaryPiece,
    SecondaryRecord,
    SecondaryState,
)
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PAYLOAD_SIZE_BYTES = COVERED_PAGES_MAX * PAGE_SIZE_BYTES
NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")  # a file of that name is made: no path, no hidden file, no option
FILE_PREFIX = "secondary."
_ALIGNMENT = 8


class Blob(NamedTuple):
    """A blob and where its content lies in the file that it is read from; 0 bytes of it where it was torn."""

    name: str
    size_bytes: int
    digest: bytes
    offset_bytes: int
    state: SecondaryState = SecondaryState.WHOLE

    def record(self) -> SecondaryRecord:
        return SecondaryRecord(self.name.encode(), self.size_bytes, self.state, self.digest)


class Piece(NamedTuple):
    """A part of a blob that goes into one frame."""

    blob: Blob
    offset_bytes: int
    length_bytes: int


class ReadPiece(NamedTuple):
    """A piece as it was found in a frame. `size_bytes` is that of the whole blob."""

    name: str
    size_bytes: int
    offset_bytes: int
    content: bytes


def check_name(name: str) -> None:
    """Raises `UsageError` where a blob cannot be called that."""
    if decode_name(name.encode(errors="replace")) is None:
        raise UsageError(
            f"{name!r} is no name for secondary data: give up to {SECONDARY_NAME_SIZE_BYTES} letters, digits, dots, "
            f"dashes and underscores, a letter or digit first"
        )


def decode_name(field: bytes) -> str | None:
    """The name in a field that is padded with zeros; None where it is none."""
    name = field.rstrip(b"\0")
    return name.decode() if len(name) <= SECONDARY_NAME_SIZE_BYTES and NAME.fullmatch(name) else None


def pack(blobs: Sequence[Blob]) -> list[tuple[Piece, ...]]:
    """The pieces of each frame, in the order of the blobs. A blob without content has one piece all the same."""
    frames: list[list[Piece]] = [[]]
    room_bytes = PAYLOAD_SIZE_BYTES
    for blob in blobs:
        offset_bytes, is_begun = 0, False
        while offset_bytes < blob.size_bytes or not is_begun:
            if room_bytes < SECONDARY_PIECE.size_bytes + _ALIGNMENT:
                frames.append([])
                room_bytes = PAYLOAD_SIZE_BYTES
            length_bytes = min(blob.size_bytes - offset_bytes, room_bytes - SECONDARY_PIECE.size_bytes)
            frames[-1].append(Piece(blob, offset_bytes, length_bytes))
            room_bytes -= SECONDARY_PIECE.size_bytes + _padded(length_bytes)
            offset_bytes, is_begun = offset_bytes + length_bytes, True
    return [tuple(pieces) for pieces in frames if pieces]


def payload_size_bytes(pieces: Sequence[Piece]) -> int:
    """What the pieces of a frame take, in whole pages."""
    taken_bytes = sum(SECONDARY_PIECE.size_bytes + _padded(piece.length_bytes) for piece in pieces)
    return taken_bytes + -taken_bytes % PAGE_SIZE_BYTES


def fill(payload: memoryview, pieces: Sequence[Piece], read_into: Callable[[int, memoryview], None]) -> int:
    """Write the pieces of a frame; how many bytes of the payload they take, in whole pages."""
    position = 0
    for blob, offset_bytes, length_bytes in pieces:
        head = SecondaryPiece(blob.name.encode(), blob.size_bytes, offset_bytes, length_bytes)
        SECONDARY_PIECE.pack_into(payload, position, head)
        position += SECONDARY_PIECE.size_bytes
        read_into(blob.offset_bytes + offset_bytes, payload[position : position + length_bytes])
        padded_bytes = _padded(length_bytes)
        payload[position + length_bytes : position + padded_bytes] = bytes(padded_bytes - length_bytes)
        position += padded_bytes
    end_bytes = position + -position % PAGE_SIZE_BYTES
    payload[position:end_bytes] = bytes(end_bytes - position)
    return end_bytes


def decode_pieces(payload: bytes) -> Iterator[ReadPiece]:
    """Raises `FormatError` where a piece is none that a blob can have."""
    position = 0
    while position + SECONDARY_PIECE.size_bytes <= len(payload) and payload[position]:
        piece = SECONDARY_PIECE.unpack_from(payload, position)
        position += SECONDARY_PIECE.size_bytes
        name = decode_name(piece.name)
        if name is None or piece.size_bytes > SECONDARY_SIZE_BYTES_MAX:
            raise FormatError("secondary data: a blob that cannot be")
        if piece.length_bytes > min(len(payload) - position, piece.size_bytes - piece.offset_bytes):
            raise FormatError(f"secondary data: a piece of {name} is longer than what is there")
        content = payload[position : position + piece.length_bytes]
        yield ReadPiece(name, piece.size_bytes, piece.offset_bytes, content)
        position += _padded(piece.length_bytes)


def _padded(length_bytes: int) -> int:
    return length_bytes + -length_bytes % _ALIGNMENT
