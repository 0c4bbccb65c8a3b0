/*
 * Extended attributes. Here the library reads and writes whole inodes, through a small cache of its own which is
 * emptied first; between open and close the hooks of inode access stand aside.
 */
#include "volume.h"

long xattr_open(volume *volume, uint32_t ino, struct ext2_xattr_handle **handle)
{
    volume->library_owns_inodes = 1;
    errcode_t error = ext2fs_flush_icache(volume->fs);

    *handle = NULL;
    if (!error)
        error = ext2fs_xattrs_open(volume->fs, ino, handle);
    if (!error)
        error = ext2fs_xattrs_read(*handle);
    if (error)
        xattr_close(volume, handle);
    return error;
}

void xattr_close(volume *volume, struct ext2_xattr_handle **handle)
{
    if (*handle)
        ext2fs_xattrs_close(handle);
    volume->library_owns_inodes = 0;
}

struct name_buffer {
    char *data;
    uint64_t capacity;
    uint64_t length;
};

static int add_name(char *name, char *value, size_t value_length, void *context)
{
    struct name_buffer *buffer = context;
    size_t length = strlen(name) + 1;

    (void)value;
    (void)value_length;
    if (length > buffer->capacity - buffer->length)
        return XATTR_ABORT;
    memcpy(buffer->data + buffer->length, name, length);
    buffer->length += length;
    return 0;
}

/* The names, each with a NUL behind it. */
long xattr_names(struct ext2_xattr_handle *handle, char *buffer, uint64_t capacity, uint64_t *length)
{
    struct name_buffer names = {buffer, capacity, 0};
    errcode_t error = ext2fs_xattrs_iterate(handle, add_name, &names);

    *length = names.length;
    return error;
}

/* Whether the inode may have attributes at all: the fast answer to the question that every write(2) brings. */
int xattr_present(volume *volume, uint32_t ino)
{
    struct ext2_inode_large *inode;
    uint32_t magic = 0;

    if (inode_load(volume, ino, &inode))
        return 1;
    unsigned in_inode = EXT2_GOOD_OLD_INODE_SIZE + inode->i_extra_isize;
    if (EXT2_INODE_SIZE(volume->fs->super) >= in_inode + sizeof(magic) &&
        EXT2_INODE_SIZE(volume->fs->super) > EXT2_GOOD_OLD_INODE_SIZE)
        memcpy(&magic, (char *)inode + in_inode, sizeof(magic));
    return magic == EXT2_EXT_ATTR_MAGIC || inode->i_file_acl || inode->osd2.linux2.l_i_file_acl_high;
}

/* Give the attribute block of a dying inode back. */
long xattr_release(volume *volume, uint32_t ino)
{
    struct ext2_inode_large *inode;
    errcode_t error = inode_load(volume, ino, &inode);

    if (error || (!inode->i_file_acl && !inode->osd2.linux2.l_i_file_acl_high))
        return error;
    error = ext2fs_free_ext_attr(volume->fs, ino, inode);
    return error ? error : inode_store(volume, ino);
}
