"""How a synchronous method becomes a pyfuse3 handler, and how its failures become errnos."""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Reporting(Protocol):
    """An object that wants to hear of failures that the client cannot understand: (handler, exception)."""

    on_failure: Callable[[str, Exception], object]


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Owner = TypeVar("Owner", bound=Reporting)


def handler(
    method: Callable[Concatenate[Owner, Arguments], Answer],
) -> Callable[Concatenate[Owner, Arguments], Coroutine[Any, Any, Answer]]:
    """Answer an OSError with its errno, and any other exception with EIO.

    What comes out as EIO says nothing to the client, so it is reported as well; pyfuse3 itself would end the session.
    """

    async def handle(owner: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        try:
            return method(owner, *args, **kwargs)
        except OSError as error:
            if error.errno in (None, errno.EIO):
                owner.on_failure(method.__name__, error)
            raise FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            owner.on_failure(method.__name__, error)
            raise FUSEError(errno.EIO) from error

    return functools.update_wrapper(handle, method)
