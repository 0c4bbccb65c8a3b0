"""A writer's run over a small disk on which nothing went wrong, as something to do faults to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dumpwriter.lab.diskstate import Patch
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import Run
    from vdisk.layers.trace import Event

    Around = Callable[[BlockDevice], BlockDevice]


class Recording:
    """`before` is the disk before the run, `trace` what came to it. Never changes.

    `again` is the run once more with something around the disk, and gives what comes through to the disk. `extents` are
    those of the file that is written, where it is one; `landmarks` are offsets at which something begins.
    """

    def __init__(
        self,
        before: bytes,
        trace: tuple[Event, ...],
        again: Callable[[Around], tuple[Event, ...]],
        extents: Iterable[Run] = (),
        landmarks: Iterable[int] = (),
    ) -> None:
        self.before = before
        self.trace = trace
        self.again = again
        self.extents = tuple(extents)
        self.writes = _numbers(trace, "write")
        self.flushes = _numbers(trace, "flush")
        self.places = (*(trace[number].offset_bytes for number in self.writes), *landmarks)

    def strays(self, patches: Sequence[Patch | None]) -> tuple[int, ...]:
        """The writes, by number, that leave the extents of the file; none where it is no file. A flush is None."""
        return tuple(number for number, patch in enumerate(patches) if patch is not None and not self._is_within(patch))

    def _is_within(self, patch: Patch) -> bool:
        place_bytes, _, first_bytes, behind_bytes = patch
        return not self.extents or any(
            start_bytes <= place_bytes + first_bytes and place_bytes + behind_bytes <= start_bytes + length_bytes
            for start_bytes, length_bytes in self.extents
        )


def _numbers(trace: tuple[Event, ...], kind: str) -> tuple[int, ...]:
    return tuple(number for number, event in enumerate(trace) if event.kind == kind)
