"""Frames that were believed as bytes: which of them can be read, and what is known of those that are closed."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from dumpwriter.formats.region import FrameKind
from dumpwriter.recovery.pageset import PageSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import Frame


class Opened(Enum):
    """What a frame is worth to this reader."""

    OPEN = auto()  # its payload stands in the clear
    CLOSED = auto()  # it is sealed, and no key is there
    FALSE = auto()  # a key is there, and this is not what was sealed under it


class Opener(Protocol):
    """What makes payloads readable, in place."""

    def open(self, frame: Frame, slot: memoryview) -> Opened:
        """`slot` holds the frame's header block and its payload."""

    def explains(self, header: DumpHeader) -> bool:
        """Whether a dump's header may be believed. Asked after the frames."""

    def why_nothing(self) -> str:
        """Why no frame could be opened; empty where one was, or where there was none to open."""


class WithoutKey:
    """Plain frames are open to everybody; a sealed one is handed on as it lies."""

    def __init__(self, hand_over: Callable[[memoryview], None] | None = None) -> None:
        self._hand_over = hand_over

    def open(self, frame: Frame, slot: memoryview) -> Opened:
        if frame.seal is None:
            return Opened.OPEN
        if self._hand_over is not None:
            self._hand_over(slot[: frame.size_bytes])
        return Opened.CLOSED

    def explains(self, header: DumpHeader) -> bool:  # noqa: ARG002 - the opener's interface
        return True

    def why_nothing(self) -> str:
        return ""


class ClosedFrames:
    """What sealed frames tell without their key: which pages they hold, and for whom."""

    def __init__(self) -> None:
        self.pages = PageSet()
        self.pages_total = 0
        self.fingerprint: bytes | None = None
        self.has_metadata = False
        self.size_bytes = 0

    def add(self, frame: Frame) -> None:
        assert frame.seal is not None
        self.size_bytes += frame.size_bytes
        self.fingerprint = frame.seal.record.fingerprint
        self.pages_total = frame.header.pages_total
        self.has_metadata |= frame.header.kind == FrameKind.META
        for run in frame.runs:
            self.pages.add(run)
