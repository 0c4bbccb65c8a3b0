"""What one may write into the trigger: `c`, or a bugcheck code with up to four parameters and a text. Pure.

c                                    as sysrq-trigger: a crash on request
0xD1                                 a bugcheck
0xD1 0x10 2 0 0xfffff80012345678 driver touched freed memory
"""

from __future__ import annotations

from vdisk.errors import UsageError

MANUAL_BUGCHECK = 0xE2
MANUAL_TEXT = "crash on request"
VALUE_MAX = (1 << 64) - 1


def parse_trigger(text: str) -> tuple[int, tuple[int, int, int, int], str]:
    """(code, four parameters, text). Raises `UsageError`."""
    words = text.split()
    if not words:
        raise UsageError("nothing to trigger: write c, or a bugcheck code")
    if words == ["c"]:
        return MANUAL_BUGCHECK, (0, 0, 0, 0), MANUAL_TEXT
    code = parse_value(words[0])
    values = []
    for word in words[1:5]:
        try:
            values.append(parse_value(word))
        except UsageError:
            break
    first, second, third, fourth = (*values, 0, 0, 0, 0)[:4]
    return code, (first, second, third, fourth), " ".join(words[1 + len(values) :]) or MANUAL_TEXT


def parse_value(word: str) -> int:
    """An unsigned integer of 64 bits, decimal or 0x…. Raises `UsageError`."""
    try:
        value = int(word, 0)
    except ValueError:
        raise UsageError(f"{word!r} is not a number: give it as 0xD1 or 209") from None
    if not 0 <= value <= VALUE_MAX:
        raise UsageError(f"{word} does not fit in 64 bits")
    return value
