"""Secondary data on its way back: pieces from frames that proved true, becoming blobs, or the names of those lost.

All that a dump can hold of it is small, so it is kept in memory; a disk that claims more than a dump can hold is not
believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.formats.region import SECONDARY_COUNT_MAX, SECONDARY_SIZE_BYTES_MAX, SecondaryRecord, SecondaryState
from dumpwriter.secondary import decode_name, decode_pieces
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.secondary import ReadPiece

TORN, LOST = "torn", "lost"


class FoundBlob(NamedTuple):
    """A blob that is whole."""

    name: str
    content: bytes


class MissingBlob(NamedTuple):
    """A blob that is not: torn by the machine's death, or lost on the disk. No name where that was torn too."""

    name: str | None
    reason: str


class Secondary(NamedTuple):
    """The secondary data of one dump."""

    found: tuple[FoundBlob, ...] = ()
    missing: tuple[MissingBlob, ...] = ()


class BlobAssembly:
    """Pieces by the name of their blob and by their offset in it."""

    def __init__(self) -> None:
        self._pieces: dict[str, dict[int, ReadPiece]] = {}
        self._left_bytes = SECONDARY_SIZE_BYTES_MAX

    def take(self, payload: bytes) -> None:
        """Raises `FormatError` where the payload holds what no dump can hold; what came before it is kept."""
        for piece in decode_pieces(payload):
            if piece.name not in self._pieces and len(self._pieces) == SECONDARY_COUNT_MAX:
                raise FormatError("secondary data: more blobs than a dump can hold")
            pieces = self._pieces.setdefault(piece.name, {})
            if piece.offset_bytes not in pieces:
                self._left_bytes -= len(piece.content)
                if self._left_bytes < 0:
                    raise FormatError("secondary data: more bytes than a dump can hold")
                pieces[piece.offset_bytes] = piece

    def outcome(self, rows: Sequence[SecondaryRecord]) -> Secondary:
        """Judge by the rows of the metadata what there ought to be; without a row, a blob need only be complete."""
        expected = {name: row for row in rows if (name := decode_name(row.name)) is not None}
        found, missing = [], [MissingBlob(None, TORN) for row in rows if decode_name(row.name) is None]
        for name in {**dict.fromkeys(expected), **dict.fromkeys(self._pieces)}:
            row, content = expected.get(name), self._joined(name)
            if row is not None and row.state != SecondaryState.WHOLE:
                missing.append(MissingBlob(name, TORN))
            elif content is None or (row is not None and blake3.blake3(content).digest() != row.digest):
                missing.append(MissingBlob(name, LOST))
            else:
                found.append(FoundBlob(name, content))
        return Secondary(tuple(found), tuple(missing))

    def _joined(self, name: str) -> bytes | None:
        """None where a piece is missing."""
        content = b""
        pieces = self._pieces.get(name, {})
        for offset_bytes in sorted(pieces):
            if offset_bytes != len(content):
                return None
            content += pieces[offset_bytes].content
        return content if pieces and len(content) == next(iter(pieces.values())).size_bytes else None
