/* Inodes in place in the cached inode table, and the mapping from file blocks to disk blocks. */
#include "volume.h"

#define EXTENT_MAX_BLOCKS 32768 /* the longest initialised extent */

struct inode_place {
    struct cached_block *block;
    unsigned index; /* of the inode within the block */
};

static errcode_t find_inode(volume *volume, uint32_t ino, struct inode_place *place)
{
    ext2_filsys fs = volume->fs;

    if (ino == 0 || ino > fs->super->s_inodes_count)
        return EXT2_ET_BAD_INODE_NUM;
    dgrp_t group = ext2fs_group_of_ino(fs, ino);
    uint64_t index = (ino - 1) % EXT2_INODES_PER_GROUP(fs->super);
    unsigned per_block = BLOCK_SIZE / EXT2_INODE_SIZE(fs->super);
    uint64_t table = ext2fs_inode_table_loc(fs, group);

    if (!table || table + fs->inode_blocks_per_group > volume_blocks(volume))
        return EXT2_ET_GDESC_BAD_INODE_TABLE;
    place->index = index % per_block;
    return cache_read_block(volume, table + index / per_block, &place->block);
}

static struct ext2_inode_large *inode_in(volume *volume, const struct inode_place *place)
{
    return (void *)(place->block->data + place->index * EXT2_INODE_SIZE(volume->fs->super));
}

/* The inode in place; it is verified when it is first seen since its block was read. */
long inode_load(volume *volume, uint32_t ino, struct ext2_inode_large **inode)
{
    struct inode_place place;
    errcode_t error = find_inode(volume, ino, &place);

    if (error)
        return error;
    *inode = inode_in(volume, &place);
    if (place.block->verified & 1u << place.index)
        return 0;
    if (!ext2fs_inode_csum_verify(volume->fs, ino, *inode))
        return EXT2_ET_INODE_CSUM_INVALID;
    place.block->verified |= 1u << place.index;
    return 0;
}

/* Say that the inode was changed in place. */
long inode_store(volume *volume, uint32_t ino)
{
    struct inode_place place;
    errcode_t error = find_inode(volume, ino, &place);

    if (!error)
        error = ext2fs_inode_csum_set(volume->fs, ino, inode_in(volume, &place));
    if (!error)
        cache_change(volume, place.block);
    return error;
}

static void note_inode(volume *volume, uint32_t ino, int in_use, int is_directory)
{
    ext2fs_inode_alloc_stats2(volume->fs, ino, in_use, is_directory);
    volume_note_inode_group(volume, ino);
}

/* The slot may never have been written: its old generation counts only where its checksum is right. */
static void clear_inode(volume *volume, uint32_t ino, const struct inode_place *place, uint32_t mode)
{
    struct ext2_super_block *super = volume->fs->super;
    struct ext2_inode_large *inode = inode_in(volume, place);
    uint32_t generation = ext2fs_inode_csum_verify(volume->fs, ino, inode) ? inode->i_generation + 1 : 1;

    memset(inode, 0, EXT2_INODE_SIZE(super));
    inode->i_mode = mode;
    inode->i_generation = generation;
    if (EXT2_INODE_SIZE(super) > EXT2_GOOD_OLD_INODE_SIZE)
        inode->i_extra_isize = sizeof(*inode) - EXT2_GOOD_OLD_INODE_SIZE;
    place->block->verified |= 1u << place->index;
}

/* A free inode near its parent, cleared but for mode and generation. The caller fills it in and stores it. */
long inode_allocate(volume *volume, uint32_t parent, uint32_t mode, uint32_t *ino)
{
    struct inode_place place;
    errcode_t error = ext2fs_new_inode(volume->fs, parent, mode, NULL, ino);

    if (!error)
        error = find_inode(volume, *ino, &place);
    if (error)
        return error;
    note_inode(volume, *ino, +1, LINUX_S_ISDIR(mode));
    clear_inode(volume, *ino, &place, mode);
    return inode_store(volume, *ino);
}

long inode_release(volume *volume, uint32_t ino, int is_directory)
{
    note_inode(volume, ino, -1, is_directory);
    return inode_store(volume, ino);
}

/* Where the first block of a file had best be looked for. */
uint64_t inode_goal(volume *volume, uint32_t ino)
{
    return ext2fs_group_first_block2(volume->fs, ext2fs_group_of_ino(volume->fs, ino));
}

/*
 * The library takes the end of the tree from the file's size, and then finds nothing at that end. A file that grows has
 * its new size only when its blocks are mapped, so for the opening it is as long as a file can be.
 */
static errcode_t open_extents(volume *volume, uint32_t ino, ext2_extent_handle_t *handle)
{
    struct ext2_inode_large *inode;
    errcode_t error = inode_load(volume, ino, &inode);

    if (error)
        return error;
    uint32_t size = inode->i_size, size_high = inode->i_size_high;
    uint64_t longest = (uint64_t)UINT32_MAX * BLOCK_SIZE;
    inode->i_size = (uint32_t)longest;
    inode->i_size_high = longest >> 32;
    error = ext2fs_extent_open2(volume->fs, ino, (struct ext2_inode *)inode, handle);
    inode->i_size = size;
    inode->i_size_high = size_high;
    return error;
}

static errcode_t check_extent(volume *volume, const struct ext2fs_extent *extent)
{
    uint64_t blocks = volume_blocks(volume);

    if (extent->e_len == 0 || extent->e_len > blocks || extent->e_pblk < volume->fs->super->s_first_data_block ||
        extent->e_pblk > blocks - extent->e_len || volume_is_system(volume, extent->e_pblk, extent->e_len))
        return EXT2_ET_BAD_BLOCK_NUM;
    return 0;
}

static int is_end(errcode_t error)
{
    return error == EXT2_ET_EXTENT_NO_NEXT || error == EXT2_ET_NO_CURRENT_NODE || error == EXT2_ET_EXTENT_NOT_FOUND;
}

static void set_hole(block_run *run, uint64_t logical, uint64_t end)
{
    *run = (block_run){.logical = logical, .length = end - logical};
}

/*
 * The next entry behind the cursor, on its level or above: as many steps as the tree is deep. Above the leaves its e_lblk
 * is where the next subtree begins. (EXT2_EXTENT_NEXT_LEAF goes through whole subtrees again after a goto.)
 */
static errcode_t next_entry(ext2_extent_handle_t handle, struct ext2fs_extent *entry)
{
    errcode_t error;

    while ((error = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT_SIB, entry)) == EXT2_ET_EXTENT_NO_NEXT)
        if (ext2fs_extent_get(handle, EXT2_EXTENT_UP, entry))
            return EXT2_ET_EXTENT_NO_NEXT;
    return error;
}

/* The cursor stands where goto left it: at the extent before the hole, or at the one behind it where none is before. */
static errcode_t describe_hole(ext2_extent_handle_t handle, uint64_t logical, block_run *run)
{
    struct ext2fs_extent entry;
    errcode_t error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &entry);

    if (is_end(error) || (!error && entry.e_lblk <= logical))
        error = next_entry(handle, &entry);
    if (error && !is_end(error))
        return error;
    if (!error && entry.e_lblk <= logical)
        return EXT2_ET_EXTENT_HEADER_BAD; /* entries out of order */
    set_hole(run, logical, error ? UINT32_MAX : entry.e_lblk);
    return 0;
}

static errcode_t describe(volume *volume, ext2_extent_handle_t handle, uint64_t logical, block_run *run)
{
    struct ext2fs_extent extent;
    errcode_t error = ext2fs_extent_goto(handle, logical);

    if (is_end(error))
        return describe_hole(handle, logical, run);
    if (!error)
        error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);
    if (!error)
        error = check_extent(volume, &extent);
    if (error)
        return error;
    uint64_t skip = logical - extent.e_lblk;
    *run = (block_run){
        .logical = logical,
        .physical = extent.e_pblk + skip,
        .length = extent.e_len - skip,
        .unwritten = !!(extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT),
    };
    return 0;
}

/* What is at a block of the file, and for how many blocks from there. */
long map_find(volume *volume, uint32_t ino, uint64_t logical, block_run *run)
{
    ext2_extent_handle_t handle;
    errcode_t error = open_extents(volume, ino, &handle);

    if (error)
        return error;
    error = describe(volume, handle, logical, run);
    ext2fs_extent_free(handle);
    return error;
}

static int continues(const struct ext2fs_extent *left, uint64_t logical, uint64_t physical)
{
    return left->e_lblk + left->e_len == logical && left->e_pblk + left->e_len == physical &&
           left->e_len < EXTENT_MAX_BLOCKS && !(left->e_flags & EXT2_EXTENT_FLAGS_UNINIT);
}

/* Map one piece of a hole; *length is cut to what one extent takes. */
static errcode_t insert_piece(ext2_extent_handle_t handle, uint64_t logical, uint64_t physical, uint64_t *length)
{
    struct ext2fs_extent left, piece = {.e_lblk = logical, .e_pblk = physical, .e_flags = EXT2_EXTENT_FLAGS_LEAF};
    errcode_t error = ext2fs_extent_goto(handle, logical);

    if (!error)
        return EXT2_ET_EXTENT_LEAF_BAD; /* not a hole */
    if (!is_end(error))
        return error;
    error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &left);
    if (error && !is_end(error))
        return error;
    if (!error && continues(&left, logical, physical)) {
        if (*length > EXTENT_MAX_BLOCKS - left.e_len)
            *length = EXTENT_MAX_BLOCKS - left.e_len;
        left.e_len += *length;
        return ext2fs_extent_replace(handle, 0, &left);
    }
    if (*length > EXTENT_MAX_BLOCKS)
        *length = EXTENT_MAX_BLOCKS;
    piece.e_len = *length;
    int flags = !error && left.e_lblk < logical ? EXT2_EXTENT_INSERT_AFTER : 0;
    error = ext2fs_extent_insert(handle, flags, &piece);
    return error ? error : ext2fs_extent_fix_parents(handle);
}

/* Map a hole to blocks that were taken for it, as written blocks. */
long map_insert(volume *volume, uint32_t ino, uint64_t logical, uint64_t physical, uint64_t length)
{
    ext2_extent_handle_t handle;
    struct ext2_inode_large *inode;
    errcode_t error = open_extents(volume, ino, &handle);

    if (error)
        return error;
    for (uint64_t done = 0, piece; !error && done < length; done += piece) {
        piece = length - done;
        error = insert_piece(handle, logical + done, physical + done, &piece);
    }
    ext2fs_extent_free(handle);
    if (!error)
        error = inode_load(volume, ino, &inode);
    if (!error)
        error = ext2fs_iblk_add_blocks(volume->fs, (struct ext2_inode *)inode, length);
    return error ? error : inode_store(volume, ino);
}

/* Turn unwritten blocks, whose data has just been written, into written ones. */
long map_convert(volume *volume, uint32_t ino, uint64_t logical, uint64_t physical, uint64_t length)
{
    ext2_extent_handle_t handle;
    errcode_t error = open_extents(volume, ino, &handle);

    if (error)
        return error;
    for (uint64_t i = 0; !error && i < length; i++)
        error = ext2fs_extent_set_bmap(handle, logical + i, physical + i, 0);
    ext2fs_extent_free(handle);
    return error ? error : inode_store(volume, ino);
}

struct cut {
    uint64_t end;    /* the first block of the file that is free now, with all behind it */
    uint64_t start;  /* what was taken off, on the disk */
    uint64_t length; /* 0 where there was nothing left to cut */
};

/* Take the last extent off, or its part behind the cut. */
static errcode_t cut_last(volume *volume, ext2_extent_handle_t handle, uint64_t cut, struct cut *result)
{
    struct ext2fs_extent extent;
    errcode_t error = ext2fs_extent_get(handle, EXT2_EXTENT_ROOT, &extent);

    *result = (struct cut){.end = cut};
    if (!error)
        error = ext2fs_extent_get(handle, EXT2_EXTENT_LAST_LEAF, &extent);
    if (is_end(error) || (!error && extent.e_lblk + extent.e_len <= cut))
        return 0;
    if (!error)
        error = check_extent(volume, &extent);
    if (error)
        return error;
    uint64_t kept = cut > extent.e_lblk ? cut - extent.e_lblk : 0;
    *result = (struct cut){extent.e_lblk + kept, extent.e_pblk + kept, extent.e_len - kept};
    if (kept == 0)
        return ext2fs_extent_delete(handle, 0);
    extent.e_len = kept;
    return ext2fs_extent_replace(handle, 0, &extent);
}

static errcode_t cut_once(volume *volume, uint32_t ino, uint64_t cut, struct cut *result)
{
    ext2_extent_handle_t handle;
    struct ext2_inode_large *inode;
    errcode_t error = open_extents(volume, ino, &handle);

    if (error)
        return error;
    error = cut_last(volume, handle, cut, result);
    ext2fs_extent_free(handle);
    if (error || !result->length)
        return error;
    error = blocks_give(volume, result->start, result->length);
    if (!error)
        error = inode_load(volume, ino, &inode);
    if (!error)
        error = ext2fs_iblk_sub_blocks(volume->fs, (struct ext2_inode *)inode, result->length);
    return error ? error : inode_store(volume, ino);
}

/*
 * Free the blocks of a file from a block on, last extent first, until as many blocks as the budget have changed in the
 * cache. From *end on nothing is mapped any more; it is the given block where all is done.
 * (ext2fs_punch of 1.47.0 refuses an extent that ends with the disk.)
 */
long map_cut(volume *volume, uint32_t ino, uint64_t logical, uint64_t budget, uint64_t *end)
{
    struct cut cut = {0};
    errcode_t error;

    do
        error = cut_once(volume, ino, logical, &cut);
    while (!error && cut.length && cache_changed(volume) < budget);
    *end = cut.end;
    return error;
}
