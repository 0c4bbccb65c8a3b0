"""A dump sent from its image to whoever takes it. Nobody here knows whether they keep it, so it stays in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.conversion.formats import FORMATS
from dumpwriter.recovery.copies import ExportedCopy, Survey
from dumpwriter.recovery.founddump import FrameIndex
from dumpwriter.recovery.offline import sealed_source, source_of
from dumpwriter.recovery.offlinedisk import opened_disk
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.places import reason_for_none, untaken_places
from dumpwriter.recovery.recognition import opened_file
from dumpwriter.recovery.report import describe_findings, describe_nothing
from dumpwriter.verdict import Verdict
from vdisk.errors import KeyFileError, RecoveryError, UsageError, naming
from vdisk.imagefile import open_locked
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.conversion.conversion import Wish
    from dumpwriter.conversion.outputs import Stream
    from dumpwriter.recovery.extraction import DumpSource, Progress
    from dumpwriter.recovery.opening import Opener
    from vdisk.secret import Secret


def check_sendable(wish: Wish) -> None:
    """Raises `UsageError` for a format whose pages must come in the order of their addresses: in a dump they do not."""
    if not FORMATS[wish.format].is_unordered:
        able = ", ".join(name for name, known in FORMATS.items() if known.is_unordered and known.is_stream)
        raise UsageError(f"-o -: a dump comes out of its image in an order of its own, for which there is {able}")


def send_image(
    path: str,
    output: Stream,
    wish: Wish,
    progress: Progress,
    key: Secret = NO_KEY,
    new_opener: Callable[[], Opener] = WithoutKey,
) -> dict[str, Any]:
    """Send the newest dump that nobody has taken out. The report has what was found, and how many older ones there are.

    Raises as `send` does.
    """
    with naming(path), opened_disk(open_locked(path, read_only=True), key) as disk:
        places = untaken_places(disk.record)
        for older in reversed(range(len(places))):
            report = send(source_of(*disk, places[older]), output, wish, progress, new_opener())
            if report["verdict"] != Verdict.NONE:
                return report | {"older": older}
        return describe_nothing(reason_for_none(disk.record))


def send_sealed_file(path: str, output: Stream, wish: Wish, progress: Progress, opener: Opener) -> dict[str, Any]:
    """Send what a sealed dump holds. Raises as `send` does."""
    with naming(path), opened_file(path) as file:
        return send(sealed_source(file), output, wish, progress, opener)


def send(source: DumpSource, output: Stream, wish: Wish, progress: Progress, opener: Opener) -> dict[str, Any]:
    """Send a dump; nothing where its verdict is NONE.

    Raises `KeyFileError` where it is sealed and the opener does not open it, `ConversionError` where the format cannot
    hold it or nobody reads it, `RecoveryError` where the disk does not read twice alike.
    """
    index = FrameIndex(opener)
    found = source.read(Survey(), lambda done, total: progress(done, 2 * total), index)
    if opener.why_nothing() or found.is_closed:
        raise KeyFileError(opener.why_nothing() or "the dump is sealed: give --dump-private-key PRIVATE.pem")
    report = describe_findings(found, source.identity) | {"kind": source.kind, "path": None}
    if found.verdict == Verdict.NONE:
        return report
    copy = ExportedCopy(source, found, index, wish)
    again = copy.write(source, output, lambda done, total: progress(total + done, 2 * total))
    if again.present != found.present:
        raise RecoveryError("the disk gave two different answers: what was sent is no dump, send it again")
    return report | copy.describe() | {"digests": {copy.file: {"sha256": output.digest()}}}
