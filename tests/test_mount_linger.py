"""Waiting for the next request of FUSE."""

from __future__ import annotations

import fcntl
import os
import resource

import trio

from vdisk.mount.linger import _wait_readable


def test_a_program_that_has_many_files_open_waits_too() -> None:
    """select knows descriptors below 1024 alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    reader, writer = os.pipe()
    beyond = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 2000)
    try:
        os.write(writer, b"a request")
        trio.run(_wait_readable, beyond)
    finally:
        for descriptor in (reader, writer, beyond):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
