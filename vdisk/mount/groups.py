"""Exceptions out of a nursery, as they were raised: callers meet MountError and PowerLost, not groups of one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the exception inside groups of one; a group of several stays as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _only_exception_of(group) from None


def _only_exception_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    exception: BaseException = group
    while isinstance(exception, BaseExceptionGroup) and len(exception.exceptions) == 1:
        exception = exception.exceptions[0]
    return exception
