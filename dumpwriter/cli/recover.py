"""recover and verify: the dump of an image that no machine runs on."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from dumpwriter.cli.keys import volume_key
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import describe_recovery, print_json
from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.offline import recover_image, verify_image
from dumpwriter.recovery.retention import Retention
from dumpwriter.verdict import Verdict

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    retention = Retention(arguments.keep, arguments.min_free)
    key = volume_key(arguments)
    with progress_bar("recover") as show, contextlib.closing(HostStore(arguments.output)) as store:
        report = recover_image(arguments.image, store, retention, show, key)
    if not arguments.json and report["verdict"] != Verdict.NONE and not os.access(arguments.image, os.W_OK):
        print(f"{arguments.image} is read-only: the dump in it is not marked as taken")
    return _tell(report, as_json=arguments.json)


def verify(arguments: argparse.Namespace) -> int:
    key = volume_key(arguments)
    with progress_bar("verify") as show:
        report = verify_image(arguments.image, show, key)
    return _tell(report, as_json=arguments.json)


def _tell(report: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json(report)
    else:
        print(describe_recovery(report))
    return 0 if report["verdict"] == Verdict.COMPLETE else 1
