"""VMCOREINFO: what the note says by kind and name, and text that no kernel wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.export.notes import pack_notes, prstatus_note, vmcoreinfo_note
from dumpwriter.linux.vmcoreinfo import find_vmcoreinfo, parse_vmcoreinfo
from vdisk.errors import FormatError

TEXT = b"""OSRELEASE=6.1.0-56-cloud-amd64
BUILD-ID=3b43fad503487449
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffffaedf9b60
SYMBOL(_stext)=ffffffffad200000
SIZE(page)=64
OFFSET(page.lru)=8
LENGTH(zone.free_area)=11
NUMBER(phys_base)=-635437056
NUMBER(KERNEL_IMAGE_SIZE)=1073741824
NUMBER(arm64)=0x10
KERNELOFFSET=2c200000
CRASHTIME=1700000002
"""


def test_each_kind_of_line_is_read() -> None:
    info = parse_vmcoreinfo(TEXT)
    assert info.release == "6.1.0-56-cloud-amd64"
    assert info.kernel_version == (6, 1, 0)
    assert info.symbols == {"init_uts_ns": 0xFFFFFFFFAEDF9B60, "_stext": 0xFFFFFFFFAD200000}
    assert info.sizes["page"] == 64
    assert info.offsets["page.lru"] == 8
    assert info.lengths["zone.free_area"] == 11
    assert info.numbers == {"phys_base": -635437056, "KERNEL_IMAGE_SIZE": 1 << 30, "arm64": 16}
    assert (info.physical_base, info.kernel_offset_bytes, info.crash_seconds) == (-635437056, 0x2C200000, 1700000002)
    assert info.keys["BUILD-ID"] == "3b43fad503487449"


def test_a_physical_base_that_was_printed_without_its_sign_is_negative() -> None:
    assert parse_vmcoreinfo(b"NUMBER(phys_base)=18446744073074114560\n").physical_base == -635437056


def test_what_it_does_not_say_is_an_error_that_names_it() -> None:
    info = parse_vmcoreinfo(b"")
    with pytest.raises(FormatError, match=r"VMCOREINFO has no SYMBOL\(prb\)"):
        info.symbols["prb"]
    with pytest.raises(FormatError, match=r"VMCOREINFO has no OFFSET\(page.lru\)"):
        info.offsets["page.lru"]
    with pytest.raises(FormatError, match="OSRELEASE"):
        _ = info.kernel_version
    assert (info.release, info.crash_seconds) == (None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"SYMBOL(x)=zzz", "zzz"),
        (b"SIZE(page)=", "''"),
        (b"NUMBER(x)=36893488147419103232", "64 bits"),
        (b"NUMBER(x)=" + b"9" * 10000, "64 bits"),
        (b"PAGESIZE=16384", "pages of 16384"),
        (b"x" * (1 << 21), "no kernel writes"),
    ],
)
def test_text_that_no_kernel_wrote_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_vmcoreinfo(text)


@given(st.binary(max_size=200) | st.text(alphabet="SYMBOLENGTH()=.\n0x9-", max_size=200).map(str.encode))
def test_any_bytes_give_a_result_or_a_declared_error(text: bytes) -> None:
    try:
        info = parse_vmcoreinfo(text)
        assert all(-(1 << 63) <= value < 1 << 64 for table in info[:5] for value in table.values())
    except FormatError:
        pass


def test_the_note_is_found_among_others() -> None:
    notes = pack_notes([prstatus_note(0, {}), vmcoreinfo_note(TEXT + bytes(3))])
    found = find_vmcoreinfo(notes)
    assert found is not None
    assert found.crash_seconds == 1700000002
    assert find_vmcoreinfo(pack_notes([prstatus_note(0, {})])) is None


def test_an_address_is_near_the_symbol_before_it() -> None:
    info = parse_vmcoreinfo(TEXT)
    assert info.symbol_at(0xFFFFFFFFAD200010, 0x1000) == ("_stext", 0x10)
    assert info.symbol_at(0xFFFFFFFFAD200000, 0x1000) == ("_stext", 0)
    assert info.symbol_at(0xFFFFFFFFAD1FFFFF, 0x1000) is None
