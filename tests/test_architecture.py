"""Who may import whom. docs/DESIGN.md says why; each message here says what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sources import REPOSITORY, Module, chains, is_within, modules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PRODUCT = modules("vdisk", "dumpwriter")

# All of dumpwriter is crash path, recovery or pure unless it is named here, so that a new module has to obey. A module
# (or package) that is not there yet is marked planned; the mark has to go when it comes.
PLANNED = "planned"
MAY_USE_THE_FILESYSTEM = {
    "dumpwriter.machine": "makes disks, arms them and composes everything",
    "dumpwriter.cli": "faces the user",
    "dumpwriter.lab.filesystem": "carries scripts out on it",
    "dumpwriter.lab.filesystemproof": "lets what is left of it be repaired",
    "dumpwriter.lab.crasheddisk": "makes disks with a dump in it",
    "dumpwriter.lab.interruption": "does what a boot does, with a dump on it",
}
CRASH_MUST_NOT_REACH = ("vdisk.ext4", "vdisk.mount", "vdisk.filesystem", "pyfuse3")

COMPOSER = "dumpwriter.machine"
FACES_THE_USER = "dumpwriter.cli"
PURE = ("dumpwriter.export", "dumpwriter.dumpfile", "dumpwriter.linux", "dumpwriter.inspection")
LABORATORY = "dumpwriter.lab"
DOES_STEPS_OF_A_BOOT = ("dumpwriter.lab.crasheddisk", "dumpwriter.lab.interruption")
DOES_NOT_REPLAY = ("random", "secrets", "threading", "time", "trio", "uuid")
DOES_IO = ("io", "mmap", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile")


def stale_marks(table: Mapping[str, str], known: Mapping[str, Module]) -> list[str]:
    there = {name: name in known for name in table}
    return [
        *(f"{name} exists now: remove its planned mark" for name in table if there[name] and table[name] == PLANNED),
        *(f"{name} is gone: remove or rename it" for name in table if not there[name] and table[name] != PLANNED),
    ]


def reaching(known: Mapping[str, Module], forbidden: tuple[str, ...], *, of: str, but: tuple[str, ...]) -> list[str]:
    """The ways by which modules of one package, all but some, come to import what they must not."""
    starts = [name for name in known if is_within(name, of) and not is_within(name, *but)]
    return [str(chain) for start in starts for chain in chains(start, known) if is_within(chain.names[-1], *forbidden)]


def importing(known: Mapping[str, Module], *names: str) -> set[str]:
    """The modules that import at least one of these themselves."""
    return {module.name for module in known.values() if any(is_within(name, *names) for name in module.imports)}


def test_the_table_is_true() -> None:
    assert not stale_marks(MAY_USE_THE_FILESYSTEM, PRODUCT)


def test_the_disk_knows_nothing_of_dumps() -> None:
    wrong = [name for name in importing(PRODUCT, "dumpwriter") if is_within(name, "vdisk")]
    assert not wrong, f"{wrong} import dumpwriter: pass in what they need from dumpwriter.machine"


def test_crash_path_and_recovery_never_reach_the_filesystem() -> None:
    wrong = reaching(PRODUCT, CRASH_MUST_NOT_REACH, of="dumpwriter", but=tuple(MAY_USE_THE_FILESYSTEM))
    assert not wrong, f"use the block device, or move the import into {list(MAY_USE_THE_FILESYSTEM)}: {wrong}"


def test_what_knows_formats_and_kernels_does_no_io() -> None:
    wrong = [name for name in importing(PRODUCT, *DOES_IO) if is_within(name, *PURE)]
    assert not wrong, f"{wrong} do I/O: take a read function and a sink from the caller"


def test_what_the_laboratory_does_can_be_replayed() -> None:
    wrong = [name for name in importing(PRODUCT, *DOES_IO, *DOES_NOT_REPLAY) if is_within(name, LABORATORY)]
    assert not wrong, f"{wrong} would be another case at another time: draw from dumpwriter.lab.chance"


def test_the_laboratory_never_reaches_a_machine() -> None:
    wrong = reaching(PRODUCT, (COMPOSER, FACES_THE_USER, "trio"), of=LABORATORY, but=DOES_STEPS_OF_A_BOOT)
    assert not wrong, f"the laboratory is the dump's steps and recovery over a disk in memory: {wrong}"


def test_the_steps_of_a_boot_need_no_process_and_no_mount() -> None:
    processes = ("trio", "pyfuse3", "vdisk.mount", FACES_THE_USER)
    wrong = [way for name in DOES_STEPS_OF_A_BOOT for way in reaching(PRODUCT, processes, of=name, but=())]
    assert not wrong, f"pass in what needs them: {wrong}"


def test_who_reads_a_kernel_takes_nothing_from_who_lays_one_out() -> None:
    wrong = [name for name in importing(PRODUCT, "dumpwriter.memory") if is_within(name, "dumpwriter.linux")]
    assert not wrong, f"{wrong} would share its mistakes: read what VMCOREINFO says"


def test_what_judges_the_product_takes_nothing_from_it() -> None:
    wrong = reaching(PRODUCT | modules("tests"), ("vdisk", "dumpwriter"), of="tests.builders", but=())
    assert not wrong, f"it would share the product's mistakes: write it from the format alone: {wrong}"


def test_one_place_composes_everything() -> None:
    both = importing(PRODUCT, "vdisk.mount") & importing(PRODUCT, "dumpwriter.machine.arming")
    wrong = [name for name in both if not is_within(name, COMPOSER)]
    assert not wrong, f"{wrong} put mount and dump together: only {COMPOSER} does"


def test_one_place_faces_the_user() -> None:
    wrong = [name for name in importing(PRODUCT, "argparse", "rich") if not is_within(name, FACES_THE_USER)]
    assert not wrong, f"{wrong} parse arguments or draw: return facts, and let {FACES_THE_USER} show them"


class TestTheRulesCanFail:
    """Each of the finders on a small tree that breaks the rule."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for package in ("vdisk", "vdisk/mount", "dumpwriter"):
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").touch()
        return tmp_path

    def known(self, tree: Path, **sources: str) -> dict[str, Module]:
        for name, source in sources.items():
            (tree / "dumpwriter" / f"{name}.py").write_text(source)
        return modules("vdisk", "dumpwriter", root=tree)

    @pytest.mark.parametrize(
        "source",
        [
            "import vdisk.mount",
            "from vdisk import mount",
            "from vdisk.mount import session",
            "def later():\n    import vdisk.mount.session",
            "from . import between",
            "from dumpwriter.between import name",
        ],
    )
    def test_every_form_of_import_is_seen(self, tree: Path, source: str) -> None:
        known = self.known(tree, writer=source, between="import vdisk.mount", alone="import os")
        ways = reaching(known, ("vdisk.mount",), of="dumpwriter", but=("dumpwriter.between",))
        assert ways
        assert all(way.startswith("dumpwriter.writer -> ") for way in ways)

    def test_what_a_package_imports_counts_for_its_modules(self, tree: Path) -> None:
        (tree / "dumpwriter" / "__init__.py").write_text("import vdisk.mount")
        known = self.known(tree, writer="")
        assert "dumpwriter.writer -> dumpwriter -> vdisk.mount" in reaching(
            known, ("vdisk.mount",), of="dumpwriter", but=()
        )

    def test_a_judge_that_goes_through_another_test_is_seen(self, tree: Path) -> None:
        (tree / "tests" / "builders").mkdir(parents=True)
        (tree / "tests" / "builders" / "writer.py").write_text("from tests.between import page")
        (tree / "tests" / "between.py").write_text("from dumpwriter import frames")
        ways = reaching(modules("tests", root=tree), ("dumpwriter",), of="tests.builders", but=())
        assert "tests.builders.writer -> tests.between -> dumpwriter" in ways

    def test_imports_for_the_type_checker_do_not_count(self, tree: Path) -> None:
        known = self.known(tree, writer="if TYPE_CHECKING:\n    import vdisk.mount")
        assert not reaching(known, ("vdisk.mount",), of="dumpwriter", but=())

    def test_a_stale_table(self, tree: Path) -> None:
        known = self.known(tree, here="")
        table = {"dumpwriter.here": PLANNED, "dumpwriter.gone": "reason", "dumpwriter.later": PLANNED}
        assert [mark.split()[0] for mark in stale_marks(table, known)] == ["dumpwriter.here", "dumpwriter.gone"]


def test_the_product_is_where_it_is_looked_for() -> None:
    assert {"vdisk.blockdevice", "dumpwriter"} <= set(PRODUCT), f"no modules found below {REPOSITORY}"
