"""inspect, log, read and diff: what a dump holds, told without another tool."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE, show
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json, print_lines
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from dumpwriter.hostfile import HostFile
from dumpwriter.inspection.difference import compare
from dumpwriter.inspection.facts import describe_dump, known_vmcoreinfo
from dumpwriter.inspection.hexdump import hexdump
from dumpwriter.inspection.report import report_about
from dumpwriter.linux.address_space import kernel_address_space
from dumpwriter.linux.kernel_log import read_kernel_log
from dumpwriter.linux.physical import DumpMemory
from dumpwriter.recovery.crashstore import REPORT
from dumpwriter.recovery.recognition import holds_dump, holds_sealed_dump
from dumpwriter.sizes import format_count, format_size
from vdisk.errors import ComparisonError, FormatError, GhostdumpError, NotAnImageError, UsageError, naming

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from dumpwriter.dumpfile.dump import Dump
    from dumpwriter.dumpfile.pageruns import PageRuns
    from dumpwriter.inspection.difference import Difference
    from dumpwriter.linux.log_record import LogRecord

DIFFERENT_EXIT_CODE = 1
JSON_BYTES_MAX = 16 << 20
RUNS_SHOWN = 4
REPORT_BYTES_MAX = 16 << 20


def inspect(arguments: argparse.Namespace) -> int:
    """A dump, or the image of a disk."""
    if not holds_dump(arguments.image):
        try:
            return show.inspect(arguments)
        except NotAnImageError as error:
            if holds_sealed_dump(arguments.image):
                raise
            raise NotAnImageError(f"{error}; nor is it a dump in a format that is read here") from None
    if arguments.key_file:
        raise UsageError("--key-file opens an image; a dump needs no key")
    with naming(arguments.image), HostFile(arguments.image) as file:
        dump = open_dump(file)
        place = {"dump": os.path.abspath(arguments.image), "size_bytes": file.size_bytes}
        facts = place | describe_dump(dump) | {"report": _report_beside(arguments.image, dump)}
    if arguments.json:
        print_json(facts)
    else:
        print_lines(_rows(facts))
    return 0


def log(arguments: argparse.Namespace) -> int:
    """What can be read of a damaged log is printed before the error is."""
    with _opened(arguments.dump) as dump:
        info = known_vmcoreinfo(dump)
        records = read_kernel_log(kernel_address_space(DumpMemory(dump), info), info)
        if arguments.json:
            return _print_log_as_json(arguments.dump, records)
        for record in records:
            for line in record.lines():
                print(line)
    return 0


def _print_log_as_json(path: str, records: Iterable[LogRecord]) -> int:
    """One document, written as the records come: a ring that somebody prepared has millions of them."""
    problem, separator = None, ""
    print(f'{{\n  "dump": {json.dumps(os.path.abspath(path))},\n  "records": [', end="")
    try:
        for record in records:
            row = {"time_ns": record.time_ns, "text": record.text.decode(errors="replace")}
            print(f"{separator}\n    {json.dumps(row)}", end="")
            separator = ","
    except FormatError as error:
        problem = str(error)
    print(f'\n  ],\n  "problem": {json.dumps(problem)}\n}}')
    return FAILED_EXIT_CODE if problem else 0


def read(arguments: argparse.Namespace) -> int:
    if arguments.json and arguments.length > JSON_BYTES_MAX:
        raise UsageError(f"--json: {arguments.length} bytes are too many for one document: {JSON_BYTES_MAX} at most")
    with _opened(arguments.dump) as dump:
        pieces = _pieces(_reader(dump, is_virtual=arguments.virtual), arguments.address, arguments.length)
        if not arguments.json:
            for line in hexdump(pieces, arguments.address):
                print(line)
            return 0
        content = b"".join(pieces)
    place = {"dump": os.path.abspath(arguments.dump), "address": arguments.address, "virtual": arguments.virtual}
    print_json(place | {"length_bytes": len(content), "hex": content.hex()})
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """0 where the pages are the same, 1 where they differ; 2, as an error, where that cannot be told."""
    try:
        with HostFile(arguments.first) as first, HostFile(arguments.second) as second, progress_bar("diff") as told:
            found = compare(_named(arguments.first, first), _named(arguments.second, second), told)
    except GhostdumpError as error:
        raise ComparisonError(str(error)) from None
    if arguments.json:
        print_json(_describe_difference(arguments, found))
    else:
        for words, runs in zip(("differ", "only in the first", "only in the second"), found, strict=True):
            for run in runs:
                print(f"{words:<18} {run.first_page * PAGE_SIZE_BYTES:#014x} {format_count(run.page_count, 'page')}")
    return 0 if found.is_none else DIFFERENT_EXIT_CODE


def _report_beside(path: str, dump: Dump) -> dict[str, Any] | None:
    """None where there is no report, or none that can be read: the dump stands for itself."""
    place = os.path.join(os.path.dirname(path), REPORT)
    with contextlib.suppress(GhostdumpError, ValueError, RecursionError), HostFile(place) as file:
        return report_about(json.loads(file.read(0, min(file.size_bytes, REPORT_BYTES_MAX))), dump)
    return None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Dump]:
    with naming(path), HostFile(path) as file:
        yield open_dump(file)


def _named(path: str, file: HostFile) -> Dump:
    with naming(path):
        return open_dump(file)


def _reader(dump: Dump, *, is_virtual: bool) -> Callable[[int, int], bytes]:
    memory = DumpMemory(dump)
    return kernel_address_space(memory, known_vmcoreinfo(dump)).read if is_virtual else memory.read_physical


def _pieces(read_at: Callable[[int, int], bytes], address: int, length_bytes: int) -> Iterator[bytes]:
    """Page by page, so that what is there is shown before what is missing is met."""
    end = address + length_bytes
    while address < end:
        piece_bytes = min(PAGE_SIZE_BYTES - address % PAGE_SIZE_BYTES, end - address)
        yield read_at(address, piece_bytes)
        address += piece_bytes


def _describe_difference(arguments: argparse.Namespace, found: Difference) -> dict[str, Any]:
    return {
        "first": os.path.abspath(arguments.first),
        "second": os.path.abspath(arguments.second),
        "same": found.is_none,
        "differing": _describe_runs(found.differing),
        "only_first": _describe_runs(found.only_first),
        "only_second": _describe_runs(found.only_second),
    }


def _describe_runs(runs: PageRuns) -> list[dict[str, int]]:
    return [run._asdict() for run in runs]


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    kind = facts["format"] + (", PARTIAL" if facts["partial"] else "")
    rows = [("dump", f"{facts['dump']}: {kind}, {format_size(facts['size_bytes'])}")]
    names = [value for value in facts["system"].values() if value]
    rows.append(("machine", " ".join(names)))
    rows += [(name, facts[field]) for name, field in (("crashed", "crash_time"), ("panic", "panic")) if facts[field]]
    if facts["uptime_ns"] is not None:
        rows.append(("last word", f"{facts['uptime_ns'] / 1e9:.6f} s after boot"))
    if facts["bugcheck"]:
        rows.append(("bugcheck", _describe_bugcheck(facts["bugcheck"])))
    rows += [(f"cpu {cpu['cpu']}", _describe_cpu(cpu)) for cpu in facts["cpus"]]
    rows += _page_rows(facts)
    if facts["report"]:
        rows.append(("report", f"{facts['report']['verdict']}: {facts['report']['reason'] or 'nothing is missing'}"))
    return rows + [("not known", problem) for problem in facts["problems"]]


def _describe_bugcheck(bugcheck: dict[str, Any]) -> str:
    parameters = ", ".join(f"{value:#x}" for value in bugcheck["parameters"])
    return f"{bugcheck['code']:#x} ({parameters}) {bugcheck['text']}"


def _describe_cpu(cpu: dict[str, Any]) -> str:
    registers = cpu["registers"]
    place = f"{registers['rip']:#018x}" + (f" {cpu['symbol']}" if cpu["symbol"] else "")
    return f"rip {place}, rsp {registers['rsp']:#018x}"


def _page_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("pages", f"{facts['pages_present']} of {facts['pages_total']}")]
    rows += [("", f"{entry['name']}: {entry['pages_present']} of {entry['pages_total']}") for entry in facts["classes"]]
    if facts["pages_absent"]:
        shown = ", ".join(f"{run['page_count']} at {_address(run)}" for run in facts["absent"][:RUNS_SHOWN])
        more = ", …" if len(facts["absent"]) > RUNS_SHOWN else ""
        rows.append(("absent", f"{format_count(facts['pages_absent'], 'page')}: {shown}{more}"))
    return rows


def _address(run: dict[str, int]) -> str:
    return f"{run['first_page'] * PAGE_SIZE_BYTES:#x}"
