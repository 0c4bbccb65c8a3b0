"""The states that a cut can leave of any trace, within bounds, each judged; and a certificate of what was found.

Where two writes in flight overlap, the later lies above the earlier: a disk that has said of both that it has them
never takes the first for the newer. Such states are counted by their cuts, and some of them have the same bytes.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import blake3

from dumpwriter.lab.bounds import Bounds, bounded_count, bounded_cuts
from dumpwriter.lab.chance import CaseKey
from dumpwriter.lab.enumeration import Cut, Epoch, epochs, sectors, state_after
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from enum import StrEnum

    from vdisk.layers.trace import Event

EXAMPLES_MAX = 10


class Finding(NamedTuple):
    """What became of a state; the reason is empty where it holds."""

    verdict: StrEnum
    reason: str = ""


class Span(NamedTuple):
    """An epoch of a trace, and the number of its first event."""

    number: int
    first_event: int
    epoch: Epoch

    @property
    def end_event(self) -> int:
        return self.first_event + len(self.epoch.writes)


class State(NamedTuple):
    """The whole disk. States with one digest are the same."""

    content: bytearray
    digest: bytes


class Case(NamedTuple):
    """One state: `SUBJECT:EPOCH:KEPT`, and `:TORN:SECTORS` where a write is torn. KEPT are bits, in hex."""

    subject: str
    epoch: int
    cut: Cut

    def __str__(self) -> str:
        torn = "" if self.cut.torn is None else f":{self.cut.torn}:{self.cut.torn_sectors}"
        return f"{self.subject}:{self.epoch}:{self.cut.kept:x}{torn}"


class Experiment(Protocol):
    """A trace over a disk as it was `before`, and what must hold of it wherever it is cut. A subject has no colon."""

    @property
    def subject(self) -> str: ...
    @property
    def before(self) -> bytes: ...
    @property
    def trace(self) -> Sequence[Event]: ...
    @property
    def verdicts(self) -> type[StrEnum]:
        """Those that hold have no reason."""

    def judge(self, span: Span, state: State) -> Finding: ...


class Certificate(NamedTuple):
    """`distinct` counts states with other bytes. `shape_digest` is of the trace without bytes: they tell the time."""

    subject: str
    seed: int
    bounds: Bounds
    epochs: int
    writes: int
    states: int
    states_expected: int
    distinct: int
    failed: int
    verdicts: dict[str, int]
    examples: tuple[tuple[Case, Finding], ...]
    shape_digest: str
    verdict_digest: str

    @property
    def holds(self) -> bool:
        return not self.failed and self.states == self.states_expected


def explore(experiment: Experiment, seed: int, bounds: Bounds, progress: Callable[[int, int], None]) -> Certificate:
    """Judge every state within the bounds. `progress` takes the states done and all."""
    expected = sum(bounded_count(span.epoch, bounds) for span in spans(experiment))
    verdicts, digest, distinct = Counter[str](), blake3.blake3(), set[bytes]()
    failed: list[tuple[Case, Finding]] = []
    states = 0
    for span in spans(experiment):
        for cut in bounded_cuts(span.epoch, bounds, CaseKey(experiment.subject, seed, span.number)):
            case, state = Case(experiment.subject, span.number, cut), state_of(span, cut)
            finding = experiment.judge(span, state)
            states += 1
            distinct.add(state.digest)
            verdicts[finding.verdict] += 1
            digest.update(f"{case} {finding.verdict}\n".encode())
            if finding.reason:
                failed.append((case, finding))
            progress(states, expected)
    return Certificate(
        subject=experiment.subject,
        seed=seed,
        bounds=bounds,
        epochs=1 + sum(event.kind == "flush" for event in experiment.trace),
        writes=sum(event.kind != "flush" for event in experiment.trace),
        states=states,
        states_expected=expected,
        distinct=len(distinct),
        failed=len(failed),
        verdicts={verdict.value: verdicts[verdict] for verdict in experiment.verdicts},
        examples=tuple(failed[:EXAMPLES_MAX]),
        shape_digest=_shape_digest(experiment.trace),
        verdict_digest=digest.hexdigest(),
    )


def spans(experiment: Experiment) -> Iterator[Span]:
    first_event = 0
    for number, epoch in enumerate(epochs(experiment.before, experiment.trace)):
        yield Span(number, first_event, epoch)
        first_event += len(epoch.writes) + 1


def state_of(span: Span, cut: Cut) -> State:
    content = bytearray(span.epoch.base)
    for place_bytes, written, start_bytes, end_bytes in state_after(span.epoch, cut).patches:
        content[place_bytes + start_bytes : place_bytes + end_bytes] = memoryview(written)[start_bytes:end_bytes]
    return State(content, blake3.blake3(content).digest())


def parse_case(line: str) -> Case:
    """Raises `UsageError` where it is none."""
    subject, *words = line.split(":")
    try:
        epoch, kept, *tear = words
        torn, torn_sectors = map(int, tear) if tear else (None, 0)
        return Case(subject, int(epoch), Cut(int(kept, 16), torn, torn_sectors))
    except ValueError:
        raise UsageError(
            f"{line!r} is not a case: give it as it was printed, with EPOCH:KEPT or EPOCH:KEPT:TORN:SECTORS at its end"
        ) from None


def span_of(experiment: Experiment, case: Case) -> Span:
    """Raises `UsageError` where the trace has no such writes in flight."""
    for span in spans(experiment):
        if span.number == case.epoch and _fits(case.cut, span.epoch):
            return span
    raise UsageError(f"{str(case)!r} is not a case: there are no such writes in flight")


def _fits(cut: Cut, epoch: Epoch) -> bool:
    if not 0 <= cut.kept < 1 << len(epoch.writes):
        return False
    if cut.torn is None:
        return True
    is_kept = cut.torn >= 0 and cut.kept >> cut.torn & 1
    return bool(is_kept) and 0 < cut.torn_sectors < sectors(epoch.writes[cut.torn])


def _shape_digest(trace: Sequence[Event]) -> str:
    digest = blake3.blake3()
    for event in trace:
        digest.update(struct.pack("<8sQQ", event.kind.encode(), event.offset_bytes, event.length_bytes))
    return digest.hexdigest()
