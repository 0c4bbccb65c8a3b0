/* One open filesystem: its bitmaps, which blocks may be allocated, and what is made ready for a commit. */
#include "volume.h"

enum { BLOCK_BITMAP_CHANGED = 1, INODE_BITMAP_CHANGED = 2 };

volume *volume_new(void *context, device_reader read, uint64_t size_bytes)
{
    volume *volume = calloc(1, sizeof(*volume));

    if (!volume)
        return NULL;
    volume->context = context;
    volume->read = read;
    volume->size_bytes = size_bytes;
    cache_init(&volume->cache);
    channel_init(volume);
    return volume;
}

void volume_free(volume *volume)
{
    if (volume->system)
        ext2fs_free_block_bitmap(volume->system);
    if (volume->busy)
        ext2fs_free_block_bitmap(volume->busy);
    if (volume->logged)
        ext2fs_free_block_bitmap(volume->logged);
    if (volume->fs)
        ext2fs_free(volume->fs);
    cache_destroy(&volume->cache);
    free(volume->withheld.runs);
    free(volume->reserved.runs);
    free(volume->group_changed);
    free(volume);
}

/* Blocks of metadata that libext2fs allocates itself: extent tree nodes and attribute blocks. */
static errcode_t find_metadata_block(ext2_filsys fs, blk64_t goal, blk64_t *result)
{
    uint64_t start, length;
    errcode_t error = blocks_find(fs->priv_data, goal, 1, &start, &length);

    if (!error)
        *result = start;
    return error;
}

static void append_run(struct run_list *list, uint64_t start, uint64_t length)
{
    list->blocks += length;
    if (list->count && list->runs[list->count - 1].start + list->runs[list->count - 1].length == start) {
        list->runs[list->count - 1].length += length;
        return;
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        void *runs = realloc(list->runs, capacity * sizeof(*list->runs));
        if (!runs)
            return; /* the run stays busy until the next mount: space is lost for a while, nothing else */
        list->runs = runs;
        list->capacity = capacity;
    }
    list->runs[list->count].start = start;
    list->runs[list->count++].length = length;
}

static void note_groups(volume *volume, uint64_t start, uint64_t length)
{
    dgrp_t last = ext2fs_group_of_blk2(volume->fs, start + length - 1);

    for (dgrp_t group = ext2fs_group_of_blk2(volume->fs, start); group <= last; group++)
        volume->group_changed[group] |= BLOCK_BITMAP_CHANGED;
    volume->changes++;
}

static void note_blocks(volume *volume, uint64_t start, uint64_t length, int in_use)
{
    note_groups(volume, start, length);
    if (in_use > 0) {
        ext2fs_mark_block_bitmap_range2(volume->busy, start, length);
        return;
    }
    for (uint64_t block = start; block < start + length; block++)
        cache_forget(volume, block);
    append_run(&volume->withheld, start, length);
}

static void note_block(ext2_filsys fs, blk64_t block, int in_use)
{
    note_blocks(fs->priv_data, block, 1, in_use);
}

static errcode_t read_inode(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode *inode)
{
    volume *volume = fs->priv_data;
    struct ext2_inode_large *stored;

    if (volume->library_owns_inodes)
        return EXT2_ET_CALLBACK_NOTHANDLED;
    errcode_t error = inode_load(volume, ino, &stored);
    if (!error)
        memcpy(inode, stored, sizeof(*inode));
    return error;
}

static errcode_t write_inode(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode *inode)
{
    volume *volume = fs->priv_data;
    struct ext2_inode_large *stored;

    if (volume->library_owns_inodes)
        return EXT2_ET_CALLBACK_NOTHANDLED;
    errcode_t error = inode_load(volume, ino, &stored);
    if (error)
        return error;
    if ((void *)inode != (void *)stored)
        memcpy(stored, inode, sizeof(*inode));
    return inode_store(volume, ino);
}

static errcode_t mark_system(volume *volume)
{
    ext2_filsys fs = volume->fs;
    errcode_t error = ext2fs_allocate_block_bitmap(fs, "blocks of the filesystem's own", &volume->system);

    for (dgrp_t group = 0; !error && group < fs->group_desc_count; group++) {
        ext2fs_reserve_super_and_bgd(fs, group, volume->system);
        ext2fs_mark_block_bitmap2(volume->system, ext2fs_block_bitmap_loc(fs, group));
        ext2fs_mark_block_bitmap2(volume->system, ext2fs_inode_bitmap_loc(fs, group));
        volume_mark_system(volume, ext2fs_inode_table_loc(fs, group), fs->inode_blocks_per_group);
    }
    return error;
}

static errcode_t open_bitmaps(volume *volume)
{
    errcode_t error = ext2fs_read_bitmaps(volume->fs);

    if (!error)
        error = ext2fs_copy_bitmap(volume->fs->block_map, &volume->busy);
    if (!error)
        error = ext2fs_allocate_block_bitmap(volume->fs, "blocks in the live journal", &volume->logged);
    if (!error)
        error = mark_system(volume);
    volume->group_changed = calloc(volume->fs->group_desc_count, 1);
    if (!error && !volume->group_changed)
        error = ENOMEM;
    return error;
}

long volume_open(volume *volume)
{
    char name[32];
    int flags = EXT2_FLAG_RW | EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES;

    snprintf(name, sizeof(name), "%p", (void *)volume);
    errcode_t error = ext2fs_open2(name, NULL, flags, 0, 0, &volume->manager, &volume->fs);
    if (!error && volume->fs->blocksize != BLOCK_SIZE)
        error = EXT2_ET_UNEXPECTED_BLOCK_SIZE;
    if (!error && ext2fs_blocks_count(volume->fs->super) > volume->size_bytes / BLOCK_SIZE)
        error = EXT2_ET_SHORT_READ;
    if (!error)
        error = ext2fs_check_desc(volume->fs);
    if (!error)
        error = open_bitmaps(volume);
    if (error)
        return error;
    volume->fs->priv_data = volume;
    volume->fs->read_inode = read_inode;
    volume->fs->write_inode = write_inode;
    ext2fs_set_alloc_block_callback(volume->fs, find_metadata_block, NULL);
    ext2fs_set_block_alloc_stats_callback(volume->fs, note_block, NULL);
    return 0;
}

ext2_filsys volume_filesystem(volume *volume)
{
    return volume->fs;
}

uint64_t volume_changes(const volume *volume)
{
    return volume->changes;
}

uint64_t volume_free_blocks(volume *volume)
{
    return ext2fs_free_blocks_count(volume->fs->super);
}

/* For the journal too, once it is known where it lies. */
void volume_mark_system(volume *volume, uint64_t start, uint64_t length)
{
    ext2fs_mark_block_bitmap_range2(volume->system, start, length);
}

int volume_is_system(volume *volume, uint64_t start, uint64_t length)
{
    return !ext2fs_test_block_bitmap_range2(volume->system, start, length);
}

/* What can be allocated before the next commit. */
uint64_t volume_available_blocks(volume *volume)
{
    uint64_t free_blocks = volume_free_blocks(volume);

    uint64_t kept_blocks = volume->withheld.blocks + volume->reserved.blocks;

    return free_blocks > kept_blocks ? free_blocks - kept_blocks : 0;
}

uint64_t volume_blocks(volume *volume)
{
    return ext2fs_blocks_count(volume->fs->super);
}

/* The first run of free blocks at or behind the goal, else from the start; at most as long as wanted. */
long blocks_find(volume *volume, uint64_t goal, uint64_t wanted, uint64_t *start, uint64_t *length)
{
    uint64_t first = volume->fs->super->s_first_data_block;
    uint64_t last = volume_blocks(volume) - 1;
    blk64_t found, end;

    if (goal < first || goal > last)
        goal = first;
    errcode_t error = ext2fs_find_first_zero_block_bitmap2(volume->busy, goal, last, &found);
    if (error == ENOENT && goal > first)
        error = ext2fs_find_first_zero_block_bitmap2(volume->busy, first, goal - 1, &found);
    if (error)
        return error == ENOENT ? EXT2_ET_BLOCK_ALLOC_FAIL : error;
    uint64_t limit = wanted - 1 < last - found ? found + wanted - 1 : last;
    error = ext2fs_find_first_set_block_bitmap2(volume->busy, found, limit, &end);
    if (error && error != ENOENT)
        return error;
    *start = found;
    *length = error == ENOENT ? limit - found + 1 : end - found;
    return 0;
}

int blocks_are_used(volume *volume, uint64_t start, uint64_t length)
{
    blk64_t unused;

    return ext2fs_find_first_zero_block_bitmap2(volume->fs->block_map, start, start + length - 1, &unused) == ENOENT;
}

void blocks_take(volume *volume, uint64_t start, uint64_t length)
{
    ext2fs_block_alloc_stats_range(volume->fs, start, length, +1);
    note_blocks(volume, start, length, +1);
}

/* The library's callback for ranges is called with an empty range (1.47.0), so the range is noted here. */
long blocks_give(volume *volume, uint64_t start, uint64_t length)
{
    if (start < volume->fs->super->s_first_data_block || length > volume_blocks(volume) ||
        start > volume_blocks(volume) - length)
        return EXT2_ET_BAD_BLOCK_NUM;
    ext2fs_block_alloc_stats_range(volume->fs, start, length, -1);
    note_blocks(volume, start, length, -1);
    return 0;
}

/* Keep what is free of a run from being allocated. A range that leaves the filesystem is cut at its end. */
long blocks_reserve(volume *volume, uint64_t start, uint64_t length)
{
    uint64_t first = volume->fs->super->s_first_data_block, blocks = volume_blocks(volume);

    if (start < first || start >= blocks || !length)
        return 0;
    uint64_t last = (length > blocks - start ? blocks : start + length) - 1;
    while (start <= last) {
        blk64_t found, end;
        errcode_t error = ext2fs_find_first_zero_block_bitmap2(volume->busy, start, last, &found);
        if (error)
            return error == ENOENT ? 0 : error;
        error = ext2fs_find_first_set_block_bitmap2(volume->busy, found, last, &end);
        if (error && error != ENOENT)
            return error;
        if (error)
            end = last + 1;
        ext2fs_mark_block_bitmap_range2(volume->busy, found, end - found);
        append_run(&volume->reserved, found, end - found);
        start = end;
    }
    return 0;
}

void blocks_release_reserved(volume *volume)
{
    struct run_list *list = &volume->reserved;

    for (size_t i = 0; i < list->count; i++)
        ext2fs_unmark_block_bitmap_range2(volume->busy, list->runs[i].start, list->runs[i].length);
    list->count = 0;
    list->blocks = 0;
}

static errcode_t seal_block_bitmap(volume *volume, dgrp_t group)
{
    ext2_filsys fs = volume->fs;
    unsigned char bitmap[BLOCK_SIZE];
    uint64_t blocks = fs->super->s_blocks_per_group;
    uint64_t first = ext2fs_group_first_block2(fs, group);
    uint64_t in_group = ext2fs_group_last_block2(fs, group) - first + 1;

    memset(bitmap, 0xff, sizeof(bitmap));
    errcode_t error = ext2fs_get_block_bitmap_range2(fs->block_map, first, blocks, bitmap);
    if (error)
        return error;
    for (uint64_t bit = in_group; bit < BLOCK_SIZE * 8; bit++)
        bitmap[bit / 8] |= 1 << bit % 8;
    error = ext2fs_block_bitmap_csum_set(fs, group, (char *)bitmap, blocks / 8);
    return error ? error : cache_write_block(volume, ext2fs_block_bitmap_loc(fs, group), bitmap);
}

static errcode_t seal_inode_bitmap(volume *volume, dgrp_t group)
{
    ext2_filsys fs = volume->fs;
    unsigned char bitmap[BLOCK_SIZE];
    uint64_t inodes = fs->super->s_inodes_per_group;

    memset(bitmap, 0xff, sizeof(bitmap));
    errcode_t error = ext2fs_get_inode_bitmap_range2(fs->inode_map, (uint64_t)group * inodes + 1, inodes, bitmap);
    if (error)
        return error;
    error = ext2fs_inode_bitmap_csum_set(fs, group, (char *)bitmap, inodes / 8);
    return error ? error : cache_write_block(volume, ext2fs_inode_bitmap_loc(fs, group), bitmap);
}

static errcode_t seal_descriptor_block(volume *volume, dgrp_t group)
{
    ext2_filsys fs = volume->fs;
    uint64_t index = group / EXT2_DESC_PER_BLOCK(fs->super);
    uint64_t block = ext2fs_descriptor_block_loc2(fs, fs->super->s_first_data_block, index);

    return cache_write_block(volume, block, (unsigned char *)fs->group_desc + index * BLOCK_SIZE);
}

static errcode_t seal_group(volume *volume, dgrp_t group)
{
    errcode_t error = 0;

    if (volume->group_changed[group] & BLOCK_BITMAP_CHANGED)
        error = seal_block_bitmap(volume, group);
    if (!error && volume->group_changed[group] & INODE_BITMAP_CHANGED)
        error = seal_inode_bitmap(volume, group);
    if (error)
        return error;
    ext2fs_group_desc_csum_set(volume->fs, group);
    volume->group_changed[group] = 0;
    return seal_descriptor_block(volume, group);
}

static errcode_t seal_directories(volume *volume)
{
    struct cached_block *block;

    TAILQ_FOREACH(block, &volume->cache.changed, link) {
        if (!block->directory)
            continue;
        errcode_t error = ext2fs_dir_block_csum_set(volume->fs, block->directory, (void *)block->data);
        if (error)
            return error;
    }
    return 0;
}

static errcode_t seal_superblock(volume *volume)
{
    struct cached_block *block;
    errcode_t error = cache_read_block(volume, 0, &block);

    if (error)
        return error;
    superblock_balance((unsigned char *)volume->fs->super);
    memcpy(block->data + SUPERBLOCK_OFFSET, volume->fs->super, SUPERBLOCK_SIZE);
    cache_change(volume, block);
    return 0;
}

/* Bring what the library keeps outside the cache into it, and set the checksums that were put off. */
long volume_seal(volume *volume)
{
    for (dgrp_t group = 0; group < volume->fs->group_desc_count; group++)
        if (volume->group_changed[group]) {
            errcode_t error = seal_group(volume, group);
            if (error)
                return error;
        }
    errcode_t error = seal_directories(volume);
    return error ? error : seal_superblock(volume);
}

/* Let go of the withheld runs that no replay of the journal would write into. */
static void release_withheld(volume *volume)
{
    struct run_list *list = &volume->withheld;
    size_t kept = 0;

    for (size_t i = 0; i < list->count; i++) {
        uint64_t start = list->runs[i].start, length = list->runs[i].length;
        if (ext2fs_test_block_bitmap_range2(volume->logged, start, length)) {
            ext2fs_unmark_block_bitmap_range2(volume->busy, start, length);
            list->blocks -= length;
        } else {
            list->runs[kept++] = list->runs[i];
        }
    }
    list->count = kept;
}

void volume_committed(volume *volume)
{
    struct cached_block *block;

    TAILQ_FOREACH(block, &volume->cache.changed, link)
        ext2fs_mark_block_bitmap2(volume->logged, block->number);
    cache_settle(volume, CACHE_CHANGED);
    release_withheld(volume);
}

void volume_checkpointed(volume *volume)
{
    ext2fs_clear_block_bitmap(volume->logged);
    cache_settle(volume, CACHE_UNWRITTEN);
    release_withheld(volume);
}

void volume_note_inode_group(volume *volume, uint32_t ino)
{
    volume->group_changed[ext2fs_group_of_ino(volume->fs, ino)] |= INODE_BITMAP_CHANGED;
    volume->changes++;
}
