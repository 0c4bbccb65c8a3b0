"""Threads that work ahead, in bounded memory: compression needs more than one processor to keep up with a disk."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

Result = TypeVar("Result")

WAITING_PER_THREAD = 2


class Ahead(Generic[Result]):
    """What the threads give comes out in the order in which it was asked for. What they raise is raised then."""

    def __init__(self) -> None:
        threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque[Future[Result]] = deque()
        self._waiting_max = threads * (1 + WAITING_PER_THREAD)

    def __enter__(self) -> Ahead[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ask(self, work: Callable[[], Result]) -> Iterator[Result]:
        """Have this done; what comes out now was asked for earlier."""
        self._waiting.append(self._pool.submit(work))
        while len(self._waiting) > self._waiting_max:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[Result]:
        while self._waiting:
            yield self._waiting.popleft().result()
