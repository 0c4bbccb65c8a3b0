"""What was found in a shard, as JSON with a check sum, and back with nothing taken on trust. Pure."""

from __future__ import annotations

import json
from typing import Any

import blake3

from dumpwriter.lab.campaign import Counts
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.shard import Campaign, Judged, Part, Shard
from dumpwriter.lab.tally import DIGEST_SIZE_BYTES, DISAGREEMENTS_MAX
from dumpwriter.verdict import Verdict
from vdisk.errors import FormatError

VERSION = 1


def encode(judged: Judged) -> bytes:
    """As JSON, which is the same for the same shard."""
    campaign, part = judged.shard
    document = {"version": VERSION, **campaign._asdict(), **part._asdict(), **judged.counts._asdict()}
    return json.dumps(document | {"checksum": _checksum(document)}, indent=1, sort_keys=True).encode()


def decode(content: bytes) -> Judged:
    """Raises `FormatError` where it is no shard's JSON, or no longer what was encoded."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or document.pop("checksum", None) != _checksum(document):
            raise FormatError("is no shard of a campaign, or was damaged")
        return _judged_of(document)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("is no shard of a campaign") from None


def _checksum(document: dict[str, Any]) -> str:
    return str(blake3.blake3(json.dumps(document, sort_keys=True).encode()).hexdigest())


def _judged_of(document: dict[str, Any]) -> Judged:
    if document["version"] != VERSION:
        raise FormatError(f"is a shard of version {document['version']}, and this is {VERSION}")
    part = Part(_count(document["first"]), _count(document["end"]))
    shard = Shard(Campaign(str(document["build"]), str(document["scenario"]), int(document["seed"])), part)
    counts = Counts(
        readers=tuple(map(str, document["readers"])),
        wrong_bytes=_count(document["wrong_bytes"]),
        disagreements=_count(document["disagreements"]),
        strays=_count(document["strays"]),
        verdicts={verdict: _count(document["verdicts"][verdict]) for verdict in Verdict},
        faults={kind: _count(document["faults"][kind]) for kind in FaultKind},
        examples=tuple(map(str, document["examples"]))[:DISAGREEMENTS_MAX],
        verdict_digest=document["verdict_digest"],
    )
    if len(bytes.fromhex(counts.verdict_digest)) != DIGEST_SIZE_BYTES:
        raise ValueError(counts.verdict_digest)
    if part.first + counts.cases != part.end:
        raise ValueError(part)
    return Judged(shard, counts)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value
