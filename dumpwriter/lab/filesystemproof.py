"""The proof over the journalled filesystem: whatever a power cut leaves of a script, e2fsck repairs it by itself, what
was synced is there, names and sizes are those of one moment, and no file shows a byte that nobody wrote to it.

A judge repairs a disk and reads it. The first is e2fsck on the plain file; whoever has another way to replay a journal
lets it judge the same states.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dumpwriter.lab.bounds import bounded_cuts
from dumpwriter.lab.chance import CaseKey
from dumpwriter.lab.exploration import Case, Finding, spans, state_of
from dumpwriter.lab.filesystem import read_tree, record
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.script import SCRIPTS, describe, parse
from dumpwriter.lab.tree import Tree, Verdict, compare
from vdisk.errors import GhostdumpError
from vdisk.ext4.mkfs import repaired

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.lab.bounds import Bounds
    from dumpwriter.lab.exploration import Span, State

TREES_MAX = 1024  # that are remembered


def by_e2fsck(content: bytearray) -> Tree | str:
    """What a filesystem holds after e2fsck -p; or why it cannot be said."""
    try:
        return read_tree(repaired(content))
    except (GhostdumpError, OSError) as refusal:
        return str(refusal)


class FilesystemExperiment:
    """An `Experiment` with one script, by its name or its text. Raises `UsageError` where it is none."""

    verdicts = Verdict

    def __init__(self, script: str, judge: Callable[[bytearray], Tree | str] = by_e2fsck) -> None:
        self.subject = script
        self.history = record(parse(SCRIPTS.get(script, script)))
        self.before, self.trace = self.history.before, self.history.trace
        self._judge = judge
        self._found: Memo[Tree | str] = Memo(TREES_MAX)

    def judge(self, span: Span, state: State) -> Finding:
        """The same bytes may be right after one operation and wrong after another."""
        found = self._found.get(state.digest, lambda: self._judge(state.content))
        if isinstance(found, str):
            return Finding(Verdict.BROKEN, found)
        return compare(found, self.history.allowed(span.end_event))


def shrunk(script: str, seed: int, bounds: Bounds, progress: Callable[[int, int], None]) -> Case | None:
    """A state that fails, of what is left of a script when no operation can be left out; None where none fails.

    `progress` takes how many operations were tried, and all; at each state that is judged for it.
    """
    operations = parse(SCRIPTS.get(script, script))
    count = len(operations)
    smallest = first_failure(script, seed, bounds, partial(progress, 0, count))
    for tried, index in enumerate(reversed(range(count if smallest else 0))):
        rest = (*operations[:index], *operations[index + 1 :])
        failure = first_failure(describe(rest), seed, bounds, partial(progress, tried, count))
        if failure is not None:
            smallest, operations = failure, rest
    return smallest


def first_failure(script: str, seed: int, bounds: Bounds, judging: Callable[[], None]) -> Case | None:
    """`judging` is called before each state."""
    experiment = FilesystemExperiment(script)
    for span in spans(experiment):
        for cut in bounded_cuts(span.epoch, bounds, CaseKey(script, seed, span.number)):
            judging()
            if experiment.judge(span, state_of(span, cut)).reason:
                return Case(script, span.number, cut)
    return None
