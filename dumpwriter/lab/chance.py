"""Chance that replays: what is drawn is a pure function of scenario, seed and case number.

The stream is BLAKE3 as an extendable-output function over the key's own text. Its specification fixes every byte on
every machine, it takes a key of any length without a seeding step that could map two keys to one stream, and it has no
state but a position. Philox would need the name hashed into its 128 bits first, and numpy keeps only the bits of its
generators stable, not the numbers drawn from them.
"""

from __future__ import annotations

from typing import NamedTuple

import blake3

_DRAW_SIZE_BYTES = 8
_DRAWS = 1 << (8 * _DRAW_SIZE_BYTES)


class CaseKey(NamedTuple):
    """Names one case. A scenario's name holds no colon, so no two keys have the same text."""

    scenario: str
    seed: int
    case: int

    def __str__(self) -> str:
        return f"{self.scenario}:{self.seed}:{self.case}"


class Chance:
    """Draws one after the other from the stream of a key."""

    def __init__(self, key: CaseKey) -> None:
        self._stream = blake3.blake3(str(key).encode())
        self._position_bytes = 0

    def take_bytes(self, size_bytes: int) -> bytes:
        drawn = self._stream.digest(length=size_bytes, seek=self._position_bytes)
        self._position_bytes += size_bytes
        return drawn

    def below(self, bound: int) -> int:
        """One of 0 .. `bound` - 1, each as likely: a draw from the incomplete last round of residues is drawn again."""
        while (draw := int.from_bytes(self.take_bytes(_DRAW_SIZE_BYTES), "little")) >= _DRAWS - _DRAWS % bound:
            pass
        return draw % bound
