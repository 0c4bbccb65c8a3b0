"""What the standby cannot do, however broken it is: open a path, make a socket, start a program.

A seccomp filter over all its threads, set after everything is open, imported and started. A call that is not in the
list fails with EPERM and does not kill: a killed clone tells nobody why.
"""

from __future__ import annotations

import errno

import pyseccomp

# newfstatat is what the C library makes of fstat; without a path it opens nothing. sendto and recvfrom are how trio's
# threads wake its loop, over a pair of sockets that is there already.
ALLOWED = {
    "disk and memory, by descriptors": "pread64 preadv preadv2 pwrite64 pwritev pwritev2 lseek fdatasync fsync",
    "descriptors themselves": "fstat newfstatat fcntl close dup2 dup3",
    "memory of its own": "mmap munmap mremap madvise mprotect brk",
    "sleeping and waking": "epoll_wait epoll_pwait epoll_ctl poll ppoll futex clock_nanosleep nanosleep",
    "calls between threads and from the machine": "read write sendto recvfrom",
    "threads that exist": "sched_yield sched_getaffinity membarrier rseq set_robust_list gettid tgkill",
    "the end of the machine, and of a standby that stands still": "pidfd_open pidfd_send_signal",
    "signals": "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack",
    "its own end": "exit exit_group restart_syscall getpid",
    "time and randomness": "clock_gettime clock_getres gettimeofday getrandom",
}


def confine() -> bool:
    """Set the filter on every thread of this process; False where the host permits no filter."""
    try:
        sandbox = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
        sandbox.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
        for name in " ".join(ALLOWED.values()).split():
            sandbox.add_rule(pyseccomp.ALLOW, name)
        sandbox.load()
    except OSError:
        return False
    return True
