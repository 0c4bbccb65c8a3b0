"""Secondary data through a real mount: registered while the machine runs, beside the vmcore after the crash."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from dumpwriter import runtime
from dumpwriter.blobarea import OWN, SHARED_SIZE_BYTES_MAX, BlobArea
from dumpwriter.formats.runtime import SECONDARY_COPY_SIZE_BYTES, SECONDARY_OFFSET_BYTES
from tests.builders.region_reader import find_region, read_dump
from tests.machines import COMMAND
from tests.test_machine_refusals import refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

NAMES = {"note.txt": b"a note\n", "empty": b"", "x" * 64: b"the longest name"}


def register(machine: Machine, name: str, content: bytes) -> None:
    subprocess.run([COMMAND, "register", machine.mountpoint, name, "-"], input=content, check=True, capture_output=True)


def test_what_was_registered_comes_back_as_files(machine: Machine) -> None:
    machine.create()
    machine.mount()
    large = os.urandom(SHARED_SIZE_BYTES_MAX - sum(map(len, NAMES.values())))
    (machine.directory / "large").write_bytes(large)
    machine.run("register", machine.mountpoint, "large", "large")
    register(machine, "gone", b"")
    for name, content in NAMES.items():
        register(machine, name, b"an older one"[: len(content)])
        register(machine, name, content)
    machine.run("unregister", machine.mountpoint, "gone")
    expected = NAMES | {"large": large}
    listed = {row["name"]: row["size_bytes"] for row in machine.status()["secondary"]}
    assert {name: size for name, size in listed.items() if name not in OWN} == {
        name: len(content) for name, content in expected.items()
    }
    assert set(OWN) <= set(listed)
    crashed = machine.crash("--text", "with secondary data")
    assert crashed["verdict"] == "COMPLETE"
    assert crashed["resident_growth_bytes"] < 8 << 20

    image = machine.image.read_bytes()
    region = find_region(image)
    assert region is not None
    theirs = read_dump(image, region).blobs
    assert {name: content for name, content in theirs.items() if name not in OWN} == expected

    verified = machine.facts("verify", machine.image)
    machine.mount()
    crash = machine.crash_directory()
    report = json.loads((crash / "report.json").read_text())
    assert report["secondary"] == verified["secondary"]
    assert report["secondary_missing"] == []
    assert {row["name"]: row["size_bytes"] for row in report["secondary"]} == {
        name: len(content) for name, content in theirs.items()
    }
    for row in report["secondary"]:
        assert row["file"] == f"secondary.{row['name']}"
        content = (crash / row["file"]).read_bytes()
        assert content == theirs[row["name"]]
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert (crash / row["file"]).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(crash)) == sorted(["vmcore", "report.json", *(row["file"] for row in report["secondary"])])
    assert b"bugcheck 0xe2: with secondary data" in theirs["events.log"]
    assert json.loads(theirs["machine.json"])["image"] == str(machine.image)


def test_it_outlives_a_kill_and_a_mount_that_does_not_answer(machine: Machine) -> None:
    machine.create()
    machine.mount()
    os.kill(machine.status()["pid"], signal.SIGSTOP)
    register(machine, "why.txt", b"the mount hangs")
    machine.kill()
    report = machine.facts("recover", machine.image, "--output", "out")
    assert (machine.directory / "out" / "1" / "secondary.why.txt").read_bytes() == b"the mount hangs"
    assert {row["name"] for row in report["secondary"]} == {"why.txt", *OWN}


def test_hostile_names_are_refused(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    for name in ("../escape", "..", ".hidden", "a/b", "x" * 65):
        said = refused(machine, "register", machine.mountpoint, name, "/dev/null", code=2)
        assert "is no name for secondary data" in said, name
    said = refused(machine, "register", machine.mountpoint, "machine.json", "/dev/null", code=2)
    assert "is the machine's own" in said
    for name in OWN:
        assert "is the machine's own" in refused(machine, "unregister", machine.mountpoint, name, code=2), name
    assert {row["name"] for row in machine.status()["secondary"]} == set(OWN)


def test_what_cannot_be_registered_is_refused_in_one_line(machine: Machine) -> None:
    machine.create()
    assert "no machine at" in machine.run("register", machine.mountpoint, "name", "/dev/null", check=1).stderr
    machine.mount()
    assert "more than" in machine.run("register", machine.mountpoint, "endless", "/dev/zero", check=2).stderr
    assert "nothing: No such file" in machine.run("register", machine.mountpoint, "name", "nothing", check=2).stderr
    assert "no secondary data" in machine.run("unregister", machine.mountpoint, "name", check=1).stderr
    machine.crash()
    assert "does not run" in machine.run("register", machine.mountpoint, "name", "/dev/null", check=1).stderr


def test_a_torn_blob_is_left_out_and_named(machine: Machine) -> None:
    machine.create()
    machine.mount()
    register(machine, "whole", b"whole")
    register(machine, "torn", b"torn")
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    (place,) = [number for number in range(32) if BlobArea(found.descriptor)._copies(number)[:1] and number == 3]
    os.pwrite(found.descriptor, b"X", SECONDARY_OFFSET_BYTES + 2 * place * SECONDARY_COPY_SIZE_BYTES + 512)
    found.close()
    assert machine.crash()["verdict"] == "COMPLETE"
    said = machine.run("recover", machine.image, "--output", "out").stdout
    assert "without 1 blob of secondary data" in said
    report = json.loads((machine.directory / "out" / "1" / "report.json").read_text())
    assert report["secondary_missing"] == [{"name": "torn", "reason": "torn"}]
    assert "whole" in {row["name"] for row in report["secondary"]}


def test_a_recovery_that_was_cut_makes_a_changed_blob_again(machine: Machine) -> None:
    machine.create()
    machine.mount()
    register(machine, "note", b"as it was")
    machine.crash()
    kept = machine.image.read_bytes()
    machine.run("recover", machine.image, "--output", "out")
    machine.image.write_bytes(kept)
    assert machine.facts("recover", machine.image, "--output", "out")["path"].endswith("/1")
    machine.image.write_bytes(kept)
    (machine.directory / "out" / "1" / "secondary.note").write_bytes(b"other")
    assert machine.facts("recover", machine.image, "--output", "out")["path"].endswith("/2")
    assert (machine.directory / "out" / "2" / "secondary.note").read_bytes() == b"as it was"


def test_a_sealed_dump_seals_its_secondary_data(machine: Machine, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    machine.create()
    machine.mount("--dump-key", public)
    secret = b"nobody reads this " * 100
    register(machine, "secret", secret)
    machine.crash()
    image = machine.image.read_bytes()
    assert secret[:40] not in image
    report = machine.facts("recover", machine.image, "--output", "out", "--dump-private-key", private)
    assert "secret" in {row["name"] for row in report["secondary"]}
    assert (machine.directory / "out" / "1" / "secondary.secret").read_bytes() == secret
