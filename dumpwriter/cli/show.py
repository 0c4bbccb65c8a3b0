"""status, drivers, extents, inspect: what is known, as lines for people or as JSON for programs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from dumpwriter import runtime
from dumpwriter.cli.keys import volume_key
from dumpwriter.commandline import command_line
from dumpwriter.formats.runtime import STANDBY_NAMES
from dumpwriter.machine.status import describe
from dumpwriter.printable import printable
from dumpwriter.recovery.imagefacts import describe_image
from dumpwriter.recovery.lastrun import End
from dumpwriter.recovery.offlinedisk import recorded_extents
from dumpwriter.recovery.places import PlaceKind
from dumpwriter.recovery.report import describe_extents, together
from dumpwriter.sizes import format_count, format_parity, format_size
from dumpwriter.verdict import Verdict
from vdisk.bootarea import BootStage
from vdisk.errors import FormatError, MountError
from vdisk.mount import mountinfo
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    import argparse

    from dumpwriter.runtime import RuntimeFile


TOLD_ENDS = (End.NOT_DUMPED, End.POWER_CUT)  # of the others there is nothing to tell, or their dump tells it


def find_machine(mountpoint: str) -> RuntimeFile:
    """The machine at a mount point; the mount itself is not touched. Raises `MountError` where there is none."""
    machine = runtime.find(mountinfo.resolve(mountpoint))
    if machine is None and os.path.isfile(mountpoint):
        raise MountError(f"{mountpoint} is a file: give the mount point of a machine")
    if machine is None and not _is_there(mountpoint):
        raise MountError(f"{mountpoint}: no such file or directory")
    if machine is None:
        raise MountError(f"no machine at {mountpoint}: start one with {command_line('mount', 'IMAGE', mountpoint)}")
    return machine


def _is_there(path: str) -> bool:
    """Also where a machine died with its mount: that cannot be looked into, and is there."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def status(arguments: argparse.Namespace) -> int:
    facts = describe(find_machine(arguments.mountpoint))
    if arguments.json:
        print_json(facts)
    else:
        print_lines(_status_rows(facts))
    return 0


def drivers(arguments: argparse.Namespace) -> int:
    modules = describe(find_machine(arguments.mountpoint)).get("drivers", [])
    if arguments.json:
        print_json(modules)
        return 0
    row = "{:<14} {:>7} {:>18} {:>6}  {:<12}  {:<4} {:<17} {}"
    print(row.format("MODULE", "PROCESS", "ADDRESS", "SIZE", "DIGEST", "VER", "DESCRIPTION", "SIGNER"))
    for module in modules:
        address, digest = f"{module['address']:#018x}", module["digest"][:12]
        told = [module[name] for name in ("version", "description", "signer")]
        print(row.format(module["name"], module["pid"], address, module["size_bytes"], digest, *told))
        print(f"{'':<14} {module['path']}")
    return 0


def extents(arguments: argparse.Namespace) -> int:
    rows = _extents_of(arguments.target)
    if arguments.json:
        print_json(rows)
        return 0
    print(f"{'LOGICAL':>14} {'PHYSICAL':>14} {'LENGTH':>14}   in bytes")
    for row in rows:
        print(f"{row['logical_bytes']:>14} {row['physical_bytes']:>14} {row['length_bytes']:>14}")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    key = volume_key(arguments) if arguments.key_file else NO_KEY
    facts = describe_image(arguments.image, key)
    if arguments.json:
        print_json(facts)
    else:
        print_lines(_image_rows(facts, has_key=bool(key)))
    return 0


def print_json(facts: object) -> None:
    print(json.dumps(facts, indent=2))


def print_lines(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"{name:<10} {printable(value)}")


def _extents_of(target: str) -> list[dict[str, int]]:
    if os.path.isfile(target):
        return describe_extents(recorded_extents(target))
    region = describe(find_machine(target)).get("region")
    if region is None:
        raise FormatError(f"the machine at {target} is not armed: no region is recorded")
    found: list[dict[str, int]] = region["extents"]
    return found


def _status_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("state", facts["state"] + (f": {facts['reason']}" if facts.get("reason") else ""))]
    rows.append(("image", str(facts.get("image"))))
    rows.append(("process", str(facts["pid"])))
    if "memory_bytes" in facts:
        rows.append(("memory", f"{format_size(facts['memory_bytes'])}, {facts['machine']}"))
    if facts.get("region"):
        region = facts["region"]
        extents = format_count(len(region["extents"]), "extent")
        rows.append(("region", f"{region['path']}, {format_size(region['size_bytes'])} in {extents}"))
        budget = facts["time_budget_seconds"]
        parity = format_parity(facts["parity_percent"])
        rows.append(("level", f"{facts['level']}, parity {parity}" + (f", within {budget:g} s" if budget else "")))
    if facts["secondary"]:
        blobs = (f"{blob['name']} ({format_size(blob['size_bytes'])})" for blob in facts["secondary"])
        rows.append(("secondary", ", ".join(blobs)))
    if facts.get("paging"):
        rows.append(("paging", _describe_paging(facts["paging"])))
    if facts.get("warning"):
        rows.append(("warning", facts["warning"]))
    if facts.get("sealed_for"):
        rows.append(("dump key", f"SHA-256 {facts['sealed_for']}"))
    rows += [("standby", _describe_standby(standby)) for standby in facts["standbys"]]
    clones = dict.fromkeys(module["name"] for module in facts.get("drivers", []) if not module["version"])
    if clones:
        rows.append(("clones", ", ".join(clones)))
    rows += _rows_of_earlier_runs(facts)
    if facts["hibernation"]:
        rows.append(("memory", describe_dump(facts["hibernation"])))
    if facts["crash"]:
        crash = facts["crash"]
        rows.append(("crash", describe_cause(crash)))
        rows.append(("dump", describe_dump(crash)))
    return rows


def _rows_of_earlier_runs(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if facts.get("last_run", {}).get("end") in TOLD_ENDS:
        rows.append(("last run", describe_last_run(facts["last_run"])))
    if facts.get("last_recovery"):
        rows += [("last boot", describe_recovery(report)) for report in together(facts["last_recovery"])]
    if facts.get("resume"):
        rows.append(("resume", describe_resume(facts)))
    return rows


def _describe_paging(paging: dict[str, Any]) -> str:
    if paging["reason"]:
        return str(paging["reason"])
    return (
        f"{paging['pages_resident']} pages in memory, {paging['pages_out']} out; {paging['page_outs']} moved out, "
        f"{paging['checks']} checked on their way back"
    )


def _describe_standby(standby: dict[str, Any]) -> str:
    if standby["pid"] is None:
        return f"the {STANDBY_NAMES[standby['rank']]} has ended: {standby['reason'] or 'its work is done'}"
    if "memory_locked" not in standby:  # it tells nobody before the machine needs it
        return f"{standby['pid']}, for a small dump"
    locked = "memory locked" if standby.get("memory_locked") else "memory not locked (needs root)"
    confined = "confined by seccomp" if standby.get("confined") else "not confined (no seccomp here)"
    return f"{standby['pid']}, {locked}, {confined}"


def _image_rows(facts: dict[str, Any], *, has_key: bool) -> list[tuple[str, str]]:
    rows = [
        ("image", facts["image"]),
        ("disk", f"{format_size(facts['disk_size_bytes'])}, id {facts['disk_id']}"),
        ("memory", format_size(facts["memory_bytes"])),
        ("encrypted", "yes" if facts["encrypted"] else "no"),
        ("level", f"{facts['level']}, parity {format_parity(facts['parity_percent'])}"),
        ("boots", f"{facts['boot_count']}, the last one reached: {facts['boot_stage']}"),
        ("last run", _last_run_of(facts, has_key=has_key)),
        ("region", f"{facts['region_kind']}, {facts['region_state']}, generation {facts['generation']}"),
    ]
    if facts["region"]:
        region = facts["region"]
        rows.append(("", f"{format_size(region['size_bytes'])} in {format_count(len(region['extents']), 'extent')}"))
    if facts["encrypted"] and not facts["dump"] and not has_key:
        rows.append(("dump", "its header is read with --key-file"))
    if facts["dump"] and facts["dump"]["bugcheck"]:
        dump = facts["dump"]
        rows.append(("dump", f"{_cause_of(dump)} at {dump['times']['crash']}"))
        rows.append(("", _pages_said(dump, facts)))
        if dump["sealed_for"]:
            rows.append(("", f"sealed for SHA-256 {dump['sealed_for']}"))
    for small in facts["small_dumps"]:
        if small["dump"]:
            at = f"boot stage {small['dump']['stage']} at {small['dump']['times'].get('crash')}"
            rows.append(("small dump", f"{small['state']}, of a crash at {at}"))
    return rows


def _pages_said(dump: dict[str, Any], facts: dict[str, Any]) -> str:
    """A header counts the pages when the dump is through; until then they are there, and it does not know of them."""
    if dump["state"] == "writing":
        verify = command_line("verify", facts["image"], encrypted=facts["encrypted"])
        return f"not written to its end: {verify} counts its pages"
    return f"{dump['pages_written']} of {dump['pages_total']} pages, says its header"


def _cause_of(dump: dict[str, Any]) -> str:
    is_crash = dump["cause"] != "hibernation"
    return f"{dump['cause']} {dump['bugcheck']['code']:#x}" if is_crash else dump["cause"]


def _last_run_of(facts: dict[str, Any], *, has_key: bool) -> str:
    if facts["last_run"] is not None:
        return describe_last_run(facts["last_run"])
    return "its key is needed: --key-file" if facts["encrypted"] and not has_key else "a machine runs on it"


def describe_last_run(last_run: dict[str, Any]) -> str:
    """One line: how it ended, how far it was, and why."""
    line = str(last_run["end"])
    if last_run["stage"] != BootStage.OFF.label:
        line += f" at boot stage {last_run['stage']}"
    return f"{line}: {last_run['reason']}" if last_run["reason"] else line


def describe_recovery(report: dict[str, Any]) -> str:
    """One line: verdict, where it is or why it is not there. A small dump says at which stage the machine died."""
    line = str(report["verdict"])
    if report["kind"] == PlaceKind.SMALL and report["stage"]:
        line += f", small dump of boot stage {report['stage']}"
    if report["pages_total"]:
        line += f", {_pages(report)}"
    if report["verdict"] == Verdict.PARTIAL and report["level_held"]:
        line += f", whole up to level {report['level_held']}"
    if report.get("path"):
        line += f", in {report['path']}"
    if report.get("sealed"):
        line += f", sealed for SHA-256 {report['sealed_for']}"
    for what in ("moved", "rebuilt"):
        if report.get(f"frames_{what}"):
            line += f", {format_count(report[f'frames_{what}'], 'frame')} {what}"
    if report["standby"] and report["takeover"]:
        line += f", by the {STANDBY_NAMES[report['standby']]} standby ({printable(report['takeover'])})"
    if report.get("secondary_missing"):
        line += f", without {format_count(len(report['secondary_missing']), 'blob')} of secondary data"
    return f"{line}: {report['reason']}" if report["reason"] else line


def describe_resume(facts: dict[str, Any]) -> str:
    """One line about a machine that was hibernated before this boot."""
    resume = facts["resume"]
    if not facts["resumed"]:
        return f"cold boot, the hibernated machine could not go on: {resume['reason']}"
    return f"resumed: {format_size(resume['bytes'])} of memory in {resume['seconds']:.2f} s"


def _pages(facts: dict[str, Any]) -> str:
    """How many there are, of those that were asked for, of all."""
    counted = f"{facts['pages_present']} of {facts['pages_wanted']} pages"
    return counted if facts["pages_wanted"] == facts["pages_total"] else f"{counted} ({facts['pages_total']} in all)"


def describe_cause(crash: dict[str, Any]) -> str:
    """The bugcheck, where it was one, and what was said."""
    return " ".join(filter(None, (f"{crash['code']:#x}" if crash["code"] else "", crash["text"])))


def describe_dump(dump: dict[str, Any]) -> str:
    """One line about what the standby wrote."""
    line = str(dump["verdict"])
    if dump["pages_total"]:
        line += f", {_pages(dump)}"
    if dump["seconds"]:
        rate = dump["bytes_written"] / dump["seconds"]
        line += f", {format_size(dump['bytes_written'])} in {dump['seconds']:.2f} s ({format_size(rate)}/s)"
    return f"{line}: {dump['reason']}" if dump["reason"] else line
