"""The C extension: libext2fs, and the small C side of this package that Python drives."""

from __future__ import annotations

import os

from cffi import FFI  # type: ignore[import-untyped]

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "vdisk/ext4"
_SOURCES = ("cache.c", "channel.c", "volume.c", "superblock.c", "inode.c", "directory.c", "xattr.c")

_LIBRARY = """
struct ext2_super_block {
    uint32_t s_inodes_count, s_free_inodes_count, s_r_blocks_count, s_r_blocks_count_hi, s_mtime, s_wtime;
    uint32_t s_feature_compat, s_feature_incompat, s_feature_ro_compat, s_last_orphan, s_journal_inum;
    uint32_t s_overhead_clusters;
    uint16_t s_state, s_inode_size;
    ...;
};
struct struct_ext2_filsys { struct ext2_super_block *super; ...; };

struct ext2_inode_large {
    uint16_t i_mode, i_uid, i_gid, i_links_count, i_extra_isize;
    uint32_t i_size, i_size_high, i_blocks, i_flags, i_generation, i_dtime, i_file_acl;
    uint32_t i_atime, i_ctime, i_mtime, i_atime_extra, i_ctime_extra, i_mtime_extra, i_crtime, i_crtime_extra;
    uint32_t i_block[15];
    union {
        struct {
            uint16_t l_i_blocks_hi, l_i_file_acl_high, l_i_uid_high, l_i_gid_high, l_i_checksum_lo, l_i_reserved;
        } linux2;
    } osd2;
    ...;
};

struct ext2_xattr_handle;
long ext2fs_xattr_get(struct ext2_xattr_handle *handle, const char *key, void **value, size_t *length);
long ext2fs_xattr_set(struct ext2_xattr_handle *handle, const char *key, const void *value, size_t length);
long ext2fs_xattr_remove(struct ext2_xattr_handle *handle, const char *key);
long ext2fs_free_mem(void *pointer);

void initialize_ext2_error_table(void);
const char *error_message(long code);

#define EXT2_ET_BLOCK_ALLOC_FAIL ...
#define EXT2_ET_INODE_ALLOC_FAIL ...
#define EXT2_ET_DIR_NO_SPACE ...
#define EXT2_ET_EA_NO_SPACE ...
#define EXT2_ET_EA_KEY_NOT_FOUND ...
#define EXT2_ET_INODE_NOT_EXTENT ...
"""

_CALLBACK = """
extern "Python" int device_read(void *context, uint64_t offset_bytes, void *buffer, uint64_t length_bytes);
"""


def _api() -> str:
    with open(os.path.join(_HERE, "api.h"), encoding="ascii") as header:
        return header.read()


ffi = FFI()
ffi.cdef(_LIBRARY + _api() + _CALLBACK)
ffi.set_source(
    "vdisk.ext4._libext2fs",
    '#include "volume.h"',
    sources=[f"{_PACKAGE}/{name}" for name in _SOURCES],
    include_dirs=[_HERE],
    depends=[f"{_PACKAGE}/api.h", f"{_PACKAGE}/volume.h"],
    libraries=["ext2fs", "com_err"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
