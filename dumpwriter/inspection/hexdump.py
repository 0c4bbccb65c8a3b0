"""Bytes as `hexdump -C` prints them: sixteen in a line, beside them the printable ones, equal lines as one asterisk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINE_BYTES = 16
_PRINTABLE = range(0x20, 0x7F)
_TEXT = bytes(byte if byte in _PRINTABLE else ord(".") for byte in range(256))


def hexdump(pieces: Iterable[bytes], address: int) -> Iterator[str]:
    """The lines of consecutive pieces, the last line being the address behind them; none where there are no bytes."""
    before, is_repeated = b"", False
    for line in _lines(pieces):
        if line == before and len(line) == LINE_BYTES:
            if not is_repeated:
                yield "*"
            is_repeated = True
        else:
            yield _row(address, line)
            is_repeated = False
        before = line
        address += len(line)
    if before:
        yield f"{address:08x}"


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        rest += piece
        whole_bytes = len(rest) - len(rest) % LINE_BYTES
        yield from (rest[start : start + LINE_BYTES] for start in range(0, whole_bytes, LINE_BYTES))
        rest = rest[whole_bytes:]
    if rest:
        yield rest


def _row(address: int, line: bytes) -> str:
    half = LINE_BYTES // 2
    digits = f"{line[:half].hex(' '):<23}  {line[half:].hex(' '):<23}"
    return f"{address:08x}  {digits}  |{line.translate(_TEXT).decode()}|"
