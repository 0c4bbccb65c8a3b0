"""Sizes as people write and read them."""

from __future__ import annotations

import re
from fractions import Fraction

from vdisk.errors import UsageError

SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
DUMP_LEVEL_MAX = 31
SECONDS_MAX = 366 * 86400
NUMBER_MAX = (1 << 63) - 1  # what every reader of JSON has room for
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of 1GiB, 64M, 4096, … (powers of 1024 throughout). Raises `UsageError`."""
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a size: give it as 512MiB or 1GiB")
    size_bytes = int(Fraction(found[1]) * UNITS[(found[2] or "").lower()])
    if not size_bytes:
        raise UsageError(f"a size of {text} makes no sense")
    return size_bytes


def parse_count(text: str) -> int:
    """A whole number from 1 on. Raises `UsageError`."""
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise UsageError(f"{text!r} is not a number from 1 on")
    return int(text)


def parse_number(text: str) -> int:
    """A whole number from 0 to `NUMBER_MAX`. Raises `UsageError`."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is not a number from 0 on")
    if len(text) > len(str(NUMBER_MAX)) or int(text) > NUMBER_MAX:
        raise UsageError(f"{text} is more than {NUMBER_MAX}")
    return int(text)


def parse_percent(text: str) -> int:
    """A whole number from 0 to 100. Raises `UsageError`."""
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdigit()) or int(number) > 100:
        raise UsageError(f"{text!r} is not a percentage from 0 to 100")
    return int(number)


def parse_parity(text: str) -> int:
    """Percent; `none` is 0. Raises `UsageError`."""
    number = text.removesuffix("%")
    if text == "none":
        return 0
    if not (number.isascii() and number.isdigit()) or not 0 < int(number) <= 100:
        raise UsageError(f"{text!r} is no parity: give none, or 1% to 100%")
    return int(number)


def parse_dump_level(text: str) -> int:
    """A dump level of makedumpfile's, 0 to 31. Raises `UsageError`."""
    if not (text.isascii() and text.isdigit()) or int(text) > DUMP_LEVEL_MAX:
        raise UsageError(f"{text!r} is no dump level: give a number from 0 to {DUMP_LEVEL_MAX}")
    return int(text)


def parse_seconds(text: str) -> float:
    """A time such as 30 or 0.5, up to a year. Raises `UsageError`."""
    if not SECONDS.fullmatch(text) or not 0 < float(text) <= SECONDS_MAX:
        raise UsageError(f"{text!r} is no time: give seconds, such as 30 or 0.5")
    return float(text)


def format_count(count: int, what: str) -> str:
    """1 extent, 2 extents."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def format_parity(percent: int) -> str:
    return f"{percent}%" if percent else "none"


def format_size(size_bytes: float) -> str:
    """Three digits and a unit: 1.5 GiB, 64 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size_bytes < 1024 or unit == "TiB":
            return f"{size_bytes:.3g} {unit}" if size_bytes < 999.5 else f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    raise AssertionError
