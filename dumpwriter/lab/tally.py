"""What readers make of many states of one world's disk, counted, and where one of them goes wrong.

The digest is a sum over the cases, each hashed with its name. So it does not depend on the order in which they were
judged, and the sums of the parts of a campaign make the sum of the whole.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.judging import Expectation, Reader, Reading
    from dumpwriter.verdict import Verdict

DISAGREEMENTS_MAX = 10  # kept to be looked at; all are counted
DIGEST_SIZE_BYTES = 32


class Disagreement(NamedTuple):
    """A case of which a reader makes something else than the disk holds."""

    reader: str
    case: str
    expected: Reading
    found: Reading

    def __str__(self) -> str:
        return (
            f"{self.reader} found {self.found.verdict} with {self.found.wrong_bytes} wrong bytes instead of "
            f"{self.expected.verdict}: {self.case}"
        )


class Stray(NamedTuple):
    """A case in which the writer wrote where it must not."""

    case: str

    def __str__(self) -> str:
        return f"the writer left the region's extents: {self.case}"


class Unmoved(NamedTuple):
    """A case in which the writer gave a frame up while there was a slot for it."""

    case: str

    def __str__(self) -> str:
        return f"the writer left a frame out that a spare slot would have taken, or parity must cover: {self.case}"


class Tally:
    """`verdicts` and the digest are of what the first reader found, the rest of all of them."""

    def __init__(self, expectation: Expectation, readers: Sequence[Reader]) -> None:
        self._expectation = expectation
        self._readers = readers
        self.cases = self.wrong_bytes = self.disagreements = self.strays = 0
        self.verdicts: Counter[Verdict] = Counter()
        self.examples: list[Disagreement | Stray | Unmoved] = []
        self._sum = 0

    def judge(self, case: object, state: DiskState) -> Reading:
        """What must come out. `case` is what its text says."""
        expected = self._expectation.of(state)
        first, *others = [(reader.name, reader.read(state)) for reader in self._readers]
        self.cases += 1
        self.verdicts[first[1].verdict] += 1
        self._sum += int.from_bytes(blake3.blake3(_line(case, first[1])).digest(), "little")
        for name, found in (first, *others):
            self.wrong_bytes += found.wrong_bytes
            if not found.is_as(expected):
                self.disagreements += 1
                self._keep(Disagreement(name, str(case), expected, found))
        return expected

    def count_stray(self, case: object) -> None:
        self.strays += 1
        self._keep(Stray(str(case)))

    def count_left_out(self, case: object) -> None:
        """As a disagreement: of what the disk could hold, with what it was given."""
        self.disagreements += 1
        self._keep(Unmoved(str(case)))

    def _keep(self, example: Disagreement | Stray | Unmoved) -> None:
        if len(self.examples) < DISAGREEMENTS_MAX:
            self.examples.append(example)

    def digest(self) -> str:
        return _digest_of(self._sum)


def sum_of_digests(digests: Iterable[str]) -> str:
    """The digest of all the cases of which these are the digests of parts."""
    return _digest_of(sum(int.from_bytes(bytes.fromhex(digest), "little") for digest in digests))


def _digest_of(total: int) -> str:
    return (total % (1 << 8 * DIGEST_SIZE_BYTES)).to_bytes(DIGEST_SIZE_BYTES, "little").hex()


def _line(case: object, reading: Reading) -> bytes:
    """Without hash order or a type's own spelling in it, so that it is the same on every Python."""
    present = ",".join(f"{run.first_page}+{run.page_count}" for run in reading.present)
    return f"{case} {reading.verdict.value} {present} {reading.wrong_bytes}".encode()
