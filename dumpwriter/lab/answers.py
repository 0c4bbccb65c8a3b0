"""What a writer asks of a disk that refuses some of it. The writer is run once for each sequence of answers.

All that a writer knows of a disk is what the disk answers: whether it did what was asked, in which order. So of a run
it decides which requests were refused, and how; not how much of a refused write had come, nor on which of its sectors
it failed. That is in what most faults differ, and the disk alone does it: here to what was asked in a run before. A
writer that reads from the disk knows more than this, and is run anew each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.diskstate import Patch
from dumpwriter.lab.fates import whole_patch
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.telling import Hung, telling
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.layers.trace import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.recording import Recording

RUNS_MAX = 1 << 12


class Refusal(NamedTuple):
    """Requests count from 0, whatever came of them."""

    request: int
    failure: type[BaseException]


class Answers:
    """The runs of one recorded writer by the answers that it got. Writes of the same bytes share them.

    What comes of a write is a patch with the whole of what was asked, so that a part of it is no copy.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._asked: Memo[tuple[Event, ...]] = Memo(RUNS_MAX)
        self._is_reading = False
        self._contents: dict[tuple[int, int], list[bytes]] = {}
        self._recorded = {event.offset_bytes: event.content for event in recording.trace if event.kind == "write"}
        for event in recording.trace:
            self._shared(event)

    def patches_under(self, faults: Sequence[Fault]) -> tuple[Patch | None, ...]:
        """What comes through to the disk under faults of which the writer is told; None of a flush."""
        arrived: list[Patch | None] = []
        disk = telling(Arrivals(len(self._recording.before), arrived), faults)
        refusals: tuple[Refusal, ...] = ()
        asked, number = self._asked_after(refusals), 0
        while number < len(asked):
            failure = _failure_of(disk, asked[number])
            if failure is not None:
                refusals = (*refusals, Refusal(number, failure))
                asked = self._asked_after(refusals)
            number += 1
        if self._is_reading:
            return tuple(map(self._patch, self._recording.again(lambda lower: telling(lower, faults))))
        return tuple(arrived)

    def _asked_after(self, refusals: tuple[Refusal, ...]) -> tuple[Event, ...]:
        return self._asked.get(refusals, lambda: self._run(refusals))

    def _run(self, refusals: tuple[Refusal, ...]) -> tuple[Event, ...]:
        layers: list[Answering] = []

        def answering(disk: BlockDevice) -> BlockDevice:
            layers.append(Answering(disk, dict(refusals)))
            return layers[0]

        self._recording.again(answering)
        self._is_reading |= layers[0].is_read
        return tuple(event._replace(content=self._shared(event)) for event in layers[0].asked)

    def _patch(self, event: Event) -> Patch | None:
        """Of a write that came in part, a part of the whole one: else what is remembered of it keeps it alive."""
        whole = self._recorded.get(event.offset_bytes, b"")
        patch = whole_patch(event)
        return patch if patch is None or not whole.startswith(event.content) else patch._replace(content=whole)

    def _shared(self, event: Event) -> bytes:
        """They are compared, which is faster than to hash them."""
        known = self._contents.setdefault((event.offset_bytes, event.length_bytes), [])
        for content in known:
            if content == event.content:
                return content
        known.append(event.content)
        return event.content


class Answering(Layer):
    """Notes what is asked, and refuses the requests with these numbers: nothing of them is done."""

    def __init__(self, lower: BlockDevice, refusals: dict[int, type[BaseException]]) -> None:
        super().__init__(lower)
        self.asked: list[Event] = []
        self.is_read = False
        self._refusals = refusals

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        self.is_read = True
        self.lower.read_into(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        self._answer(Event("write", offset_bytes, len(content), content))
        self.lower.write_from(offset_bytes, content)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        self._answer(Event("flush", 0, 0, b""))
        self.lower.flush()

    def _answer(self, request: Event) -> None:
        number = len(self.asked)
        self.asked.append(request)
        if number in self._refusals:
            raise self._refusals[number](f"request {number} is refused")


class Arrivals(BlockDevice):
    """Where a disk would be: notes what comes there. Of a request it is all, or the first part."""

    def __init__(self, size_bytes: int, patches: list[Patch | None]) -> None:
        self.size_bytes = size_bytes
        self._patches = patches

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer)
        self._patches.append(Patch(offset_bytes, view.obj, 0, view.nbytes))  # type: ignore[arg-type]

    def flush(self) -> None:
        self._patches.append(None)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        raise NotImplementedError

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        raise NotImplementedError


def _failure_of(disk: BlockDevice, request: Event) -> type[BaseException] | None:
    """The exception itself would keep every frame that it came through, and each of these the exception."""
    try:
        if request.kind == "write":
            disk.write_from(request.offset_bytes, request.content)
        else:
            disk.flush()
    except (DeviceError, Hung) as failure:
        return type(failure)
    return None
