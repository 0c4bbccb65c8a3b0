/*
 * Entries of one directory block. Entries never move while the block lives, so an offset is a stable cookie.
 * The checksum of a changed block is set at commit, once, however many entries were added.
 */
#include "volume.h"

#define HEADER_BYTES 8
#define TAIL_BYTES sizeof(struct ext2_dir_entry_tail)

struct entry {
    uint32_t inode;
    uint16_t length;
    uint8_t name_length;
    uint8_t file_type;
    char name[];
};

static unsigned needed(unsigned name_length)
{
    return (HEADER_BYTES + name_length + 3) & ~3u;
}

static unsigned usable_bytes(volume *volume)
{
    return ext2fs_has_feature_metadata_csum(volume->fs->super) ? BLOCK_SIZE - TAIL_BYTES : BLOCK_SIZE;
}

/* The entry at an offset, or NULL where what stands there is none. */
static struct entry *entry_at(unsigned char *data, unsigned offset)
{
    struct entry *entry = (struct entry *)(data + offset);

    if (offset > BLOCK_SIZE - HEADER_BYTES || entry->length % 4 || entry->length < HEADER_BYTES ||
        entry->length > BLOCK_SIZE - offset)
        return NULL;
    if (entry->inode && needed(entry->name_length) > entry->length)
        return NULL;
    return entry;
}

static errcode_t load(volume *volume, uint32_t directory, uint64_t number, struct cached_block **block)
{
    errcode_t error = cache_read_block(volume, number, block);

    if (error || (*block)->directory == directory)
        return error;
    if (!ext2fs_dir_block_csum_verify(volume->fs, directory, (void *)(*block)->data))
        return EXT2_ET_DIR_CSUM_INVALID;
    (*block)->directory = directory;
    return 0;
}

static void set_entry(struct entry *entry, unsigned length, uint32_t ino, unsigned file_type, const char *name,
                      unsigned name_length)
{
    entry->inode = ino;
    entry->length = length;
    entry->name_length = name_length;
    entry->file_type = file_type;
    memcpy(entry->name, name, name_length);
}

/* All of the block is one unused entry, before the tail that holds the checksum. */
static void blank_leaf(volume *volume, unsigned char *data, unsigned from)
{
    unsigned end = usable_bytes(volume);

    memset(data + from, 0, BLOCK_SIZE - from);
    ((struct entry *)(data + from))->length = end - from;
    if (end < BLOCK_SIZE)
        ext2fs_initialize_dirent_tail(volume->fs, (struct ext2_dir_entry_tail *)(data + end));
}

/* A new directory block; with a parent it is the first one and has the two dots. */
long directory_blank(volume *volume, uint32_t directory, uint64_t number, uint32_t parent)
{
    unsigned char *data;
    errcode_t error = cache_create(volume, number, &data);

    if (error)
        return error;
    blank_leaf(volume, data, 0);
    cache_lookup(&volume->cache, number)->directory = directory;
    if (!parent)
        return 0;
    set_entry((struct entry *)data, needed(1), directory, EXT2_FT_DIR, ".", 1);
    unsigned rest = usable_bytes(volume) - needed(1);
    set_entry((struct entry *)(data + needed(1)), rest, parent, EXT2_FT_DIR, "..", 2);
    return 0;
}

/* List the used entries; `entries` has room for every entry that a block can hold. */
long directory_scan(volume *volume, uint32_t directory, uint64_t number, directory_entry *entries, uint32_t *count,
                    unsigned char **data)
{
    struct cached_block *block;
    errcode_t error = load(volume, directory, number, &block);

    if (error)
        return error;
    *count = 0;
    *data = block->data;
    for (unsigned offset = 0; offset < BLOCK_SIZE;) {
        struct entry *entry = entry_at(block->data, offset);
        if (!entry)
            return EXT2_ET_DIR_CORRUPTED;
        unsigned next = offset + entry->length;
        if (entry->inode)
            entries[(*count)++] = (directory_entry){entry->inode, offset, next, entry->name_length, entry->file_type};
        offset = next;
    }
    return 0;
}

static int is_named(const struct entry *entry, const char *name, unsigned length)
{
    return entry->inode && entry->name_length == length && !memcmp(entry->name, name, length);
}

static errcode_t find(struct cached_block *block, const char *name, unsigned length, struct entry **found,
                      struct entry **before)
{
    *before = NULL;
    for (unsigned offset = 0; offset < BLOCK_SIZE; offset += (*before)->length) {
        *found = entry_at(block->data, offset);
        if (!*found)
            return EXT2_ET_DIR_CORRUPTED;
        if (is_named(*found, name, length))
            return 0;
        *before = *found;
    }
    return EXT2_ET_DIR_CORRUPTED; /* the caller's index says that it is here */
}

long directory_add(volume *volume, uint32_t directory, uint64_t number, const char *name, uint32_t length, uint32_t ino,
                   uint32_t file_type)
{
    struct cached_block *block;
    errcode_t error = load(volume, directory, number, &block);

    if (error)
        return error;
    for (unsigned offset = 0; offset < usable_bytes(volume);) {
        struct entry *entry = entry_at(block->data, offset);
        if (!entry || offset + entry->length > usable_bytes(volume))
            return EXT2_ET_DIR_CORRUPTED;
        unsigned own = entry->inode ? needed(entry->name_length) : 0;
        unsigned whole = entry->length;
        if (whole - own >= needed(length)) {
            if (own)
                entry->length = own;
            set_entry((struct entry *)(block->data + offset + own), whole - own, ino, file_type, name, length);
            cache_change(volume, block);
            return 0;
        }
        offset += whole;
    }
    return EXT2_ET_DIR_NO_SPACE;
}

long directory_drop(volume *volume, uint32_t directory, uint64_t number, const char *name, uint32_t length)
{
    struct cached_block *block;
    struct entry *entry, *before;
    errcode_t error = load(volume, directory, number, &block);

    if (!error)
        error = find(block, name, length, &entry, &before);
    if (error)
        return error;
    entry->inode = 0;
    if (before)
        before->length += entry->length;
    cache_change(volume, block);
    return 0;
}

long directory_point(volume *volume, uint32_t directory, uint64_t number, const char *name, uint32_t length,
                     uint32_t ino, uint32_t file_type)
{
    struct cached_block *block;
    struct entry *entry, *before;
    errcode_t error = load(volume, directory, number, &block);

    if (!error)
        error = find(block, name, length, &entry, &before);
    if (error)
        return error;
    entry->inode = ino;
    entry->file_type = file_type;
    cache_change(volume, block);
    return 0;
}

/*
 * Make a block of a hashed directory a block of a plain one. The nodes of the index hide in what looks like an unused
 * entry as long as the block (in the root: behind the two dots); leaves are plain already.
 */
long directory_flatten(volume *volume, uint32_t directory, uint64_t number, int is_root)
{
    struct cached_block *block;
    errcode_t error = load(volume, directory, number, &block);

    if (error)
        return error;
    struct entry *first = (struct entry *)block->data;
    if (is_root) {
        struct entry *dotdot = entry_at(block->data, needed(1));
        if (!dotdot || !is_named(dotdot, "..", 2))
            return EXT2_ET_DIR_CORRUPTED;
        unsigned from = needed(1) + needed(2);
        blank_leaf(volume, block->data, from);
        dotdot->length = needed(2);
    } else if (first->inode || first->length != BLOCK_SIZE) {
        return 0;
    } else {
        blank_leaf(volume, block->data, 0);
    }
    cache_change(volume, block);
    return 0;
}
