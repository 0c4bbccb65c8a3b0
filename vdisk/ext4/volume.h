/* What the C files of this extension share. */
#ifndef VDISK_EXT4_VOLUME_H
#define VDISK_EXT4_VOLUME_H

#include <stdint.h>
#include <sys/queue.h>

#include <ext2fs/ext2fs.h>

#include "api.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the on-disk structures are used in place: a little-endian machine is needed"
#endif

#define BLOCK_SIZE 4096

enum cache_state {
    CACHE_CLEAN,
    CACHE_CHANGED,   /* differs from the journal: the next commit takes it */
    CACHE_UNWRITTEN, /* in the journal, not yet at its home */
};

struct cached_block {
    uint64_t number;
    struct cached_block *chain;
    TAILQ_ENTRY(cached_block) link;
    enum cache_state state;
    uint32_t verified;  /* bit i: the checksum of the i-th inode in the block was found right */
    uint32_t directory; /* the inode whose directory block this is; its checksum is set at commit */
    int referenced;
    unsigned char data[BLOCK_SIZE];
};

TAILQ_HEAD(block_list, cached_block);

struct cache {
    struct cached_block **slots;
    uint64_t slot_count;
    uint64_t count;
    struct block_list changed;
    struct block_list unwritten;
    uint64_t changed_count;
    uint64_t unwritten_count;
};

struct run_list {
    struct { uint64_t start, length; } *runs;
    size_t count;
    size_t capacity;
    uint64_t blocks;
};

struct volume {
    ext2_filsys fs;
    struct struct_io_manager manager;
    device_reader read;
    void *context;
    uint64_t size_bytes;
    struct cache cache;
    ext2fs_block_bitmap system; /* superblocks, descriptors, bitmaps, inode tables, journal: no file may have these */
    ext2fs_block_bitmap busy;   /* in use, or freed and withheld: what may not be allocated */
    ext2fs_block_bitmap logged; /* a copy is in the live journal, which a replay would put back */
    struct run_list withheld;   /* freed, but not before a commit (or a checkpoint, where logged) */
    struct run_list reserved;   /* free, but promised to somebody who needs what lies in them */
    unsigned char *group_changed;
    uint64_t changes;           /* counts every change, to tell a clean refusal from a failure half-way */
    int library_owns_inodes;    /* the library reads and writes whole inodes through the io_manager */
};

void cache_init(struct cache *cache);
void cache_destroy(struct cache *cache);
struct cached_block *cache_lookup(const struct cache *cache, uint64_t number);
long cache_read_block(volume *volume, uint64_t number, struct cached_block **block);
long cache_write_block(volume *volume, uint64_t number, const void *data);
void cache_change(volume *volume, struct cached_block *block);
void cache_settle(volume *volume, enum cache_state from);

void channel_init(volume *volume);
int volume_is_system(volume *volume, uint64_t start, uint64_t length);
void volume_note_inode_group(volume *volume, uint32_t ino);

#endif
