"""The top of a live stack: what no driver may raise is a fault of the driver, and stops the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError, PowerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

DECLARED = (DeviceError, ValueError)  # what the interface of a block device declares


class Supervised(Layer):
    """`on_failure` is told of any other exception, the loss of power among them, before it goes on upwards."""

    def __init__(self, lower: BlockDevice, on_failure: Callable[[BaseException], object]) -> None:
        super().__init__(lower)
        self._on_failure = on_failure

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        self._watch(lambda: self.lower.read_into(offset_bytes, buffer))

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self._watch(lambda: self.lower.write_from(offset_bytes, buffer))

    def write_through(self, offset_bytes: int, buffer: Buffer) -> None:
        self._watch(lambda: self.lower.write_through(offset_bytes, buffer))

    def flush(self) -> None:
        self._watch(self.lower.flush)

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._watch(lambda: self.lower.discard(offset_bytes, length_bytes))

    def _watch(self, request: Callable[[], None]) -> None:
        try:
            request()
        except DECLARED:
            raise
        except (Exception, PowerLost) as failure:
            self._on_failure(failure)
            raise


def describe_failure(failure: BaseException) -> str:
    """`storahci.py, line 99: AttributeError: …`: where in a driver it arose, and what it was."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}: " if trace else ""
    return f"{place}{type(failure).__name__}: {failure}"
