"""One message of a kernel log, and the lines that dmesg shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_NANOSECONDS = 10**9


class LogRecord(NamedTuple):
    """When it was said, in nanoseconds since boot, and the bytes of its text, which can be any."""

    time_ns: int
    text: bytes

    def lines(self) -> Iterator[str]:
        """As dmesg prints them: the time before the first, as much room before each that follows.

        Tabs and printable text stay, every other byte stands as `\\x1b`: a log must not steer the terminal.
        """
        seconds, rest_ns = divmod(self.time_ns, _NANOSECONDS)
        prefix = f"[{seconds:5d}.{rest_ns // 1000:06d}] "
        for line in self.text.split(b"\n"):
            yield prefix + shown(line)
            prefix = " " * len(prefix)


def shown(text: bytes) -> str:
    """One line for a terminal; what is no printable text as `\\xNN`, byte for byte."""
    decoded = text.decode(errors="surrogateescape")
    if decoded.isprintable():
        return decoded
    return "".join(letter if letter == "\t" or letter.isprintable() else _escaped(letter) for letter in decoded)


def _escaped(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))
