"""What the planted pages of the simulated memory hold: a label that names the page, then the bytes of its class.

Kernel data looks like pointers, user memory like text, cached files like compressed data; so a dump of it compresses as
unevenly as a real one. All of it follows from class and page number alone; but a page of a process is named by process
and address, because it moves, and counts at the end of its label how often it was used.
"""

from __future__ import annotations

from array import array
from functools import cache
from typing import TYPE_CHECKING

from blake3 import blake3

from dumpwriter.memory.kernel import direct_address
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.source import ClassRun, PageClass

if TYPE_CHECKING:
    from collections.abc import Iterator

LABEL_BYTES = 64
USE_COUNT_OFFSET_BYTES = LABEL_BYTES - 8
_PATTERN_BYTES = 128 * 1024
_SHIFT_BYTES = 64
_CHUNK_PAGES = 256
_WORDS = b"the machine died here and what it knew is read again from blocks that were named at boot ".split()


def pages(run: ClassRun) -> Iterator[tuple[int, bytes]]:
    """The content of a run of pages, as (first page, bytes) in pieces of at most 1 MiB."""
    last = run.first_page + run.page_count
    for first_page in range(run.first_page, last, _CHUNK_PAGES):
        numbers = range(first_page, min(first_page + _CHUNK_PAGES, last))
        yield first_page, b"".join(part for page in numbers for part in _page(run.page_class, page))


def user_page(process_id: int, address: int, uses: int = 0) -> bytes:
    """The page of a process at a virtual address, after so many uses."""
    name = f"ghostdump process {process_id} page {address:#018x}\n".encode().ljust(USE_COUNT_OFFSET_BYTES, b".")
    page = process_id + address // PAGE_SIZE_BYTES
    return name + uses.to_bytes(8, "little") + _body(PageClass.USER, page)


def label(page_class: PageClass, page: int) -> bytes:
    """The first 64 bytes of a planted page."""
    return f"ghostdump page {page:#014x} {page_class.name.lower()}\n".encode().ljust(LABEL_BYTES, b".")


def _page(page_class: PageClass, page: int) -> tuple[bytes, memoryview]:
    return label(page_class, page), _body(page_class, page)


def _body(page_class: PageClass, page: int) -> memoryview:
    start = page * _SHIFT_BYTES % _PATTERN_BYTES
    return _pattern(page_class)[start : start + PAGE_SIZE_BYTES - LABEL_BYTES]


@cache
def _pattern(page_class: PageClass) -> memoryview:
    """Bytes to cut pages from; the front stands once more behind the end."""
    if page_class is PageClass.USER:
        content = _text()
    elif page_class is PageClass.CACHE:
        content = blake3(b"ghostdump cache pages").digest(length=_PATTERN_BYTES)
    else:
        content = array("Q", range(direct_address(0), direct_address(_PATTERN_BYTES * 8), 64)).tobytes()
    return memoryview(content + content[:PAGE_SIZE_BYTES])


def _text() -> bytes:
    words = (_WORDS[(index * index + index // 7) % len(_WORDS)] for index in range(_PATTERN_BYTES // 2))
    return b" ".join(words)[:_PATTERN_BYTES]
