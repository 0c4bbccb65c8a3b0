"""Why the machine stopped, as its kernel log says: a bugcheck of a simulated machine, or a kernel's panic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.linux.log_record import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.linux.log_record import LogRecord

_BUGCHECK = re.compile(rb"BUG: bugcheck 0x([0-9a-f]{1,16}) \(((?:0x[0-9a-f]{16}(?:, )?){4})\): (.*)")
_PANIC = b"Kernel panic - not syncing"


class LastWords(NamedTuple):
    """What stands in the log: when its last record was said, in nanoseconds since boot, and why there is no other."""

    time_ns: int | None = None
    panic: str | None = None
    bugcheck: dict[str, object] | None = None


def last_words(records: Iterable[LogRecord]) -> LastWords:
    """Of the last crash that the log tells of. Raises what the records raise."""
    found = LastWords()
    for record in records:
        found = found._replace(time_ns=record.time_ns)
        if record.text.startswith(_PANIC):
            found = found._replace(panic=shown(record.text))
        elif bugcheck := _BUGCHECK.fullmatch(record.text):
            found = found._replace(bugcheck=_describe(bugcheck))
    return found


def _describe(found: re.Match[bytes]) -> dict[str, object]:
    parameters = [int(value, 16) for value in found[2].split(b", ")]
    return {"code": int(found[1], 16), "parameters": parameters, "text": shown(found[3])}
