/*
 * What Python sees of the C side. Plain declarations only: cffi parses this file and the compiler includes it.
 *
 * Functions that return `long` return 0, an errno, or an error code of libext2fs. Blocks are 4096 bytes. Nothing here
 * writes to the device: changed blocks stay in the cache until Python has committed them through the journal.
 * Pointers into the cache hold until the next call of cache_trim, cache_forget or any function that frees the block.
 */

typedef struct volume volume;

/* Fill the buffer from the device: 0, or an errno. */
typedef int (*device_reader)(void *context, uint64_t offset_bytes, void *buffer, uint64_t length_bytes);

/* A run of blocks of one file; physical is 0 for a hole. */
typedef struct {
    uint64_t logical;
    uint64_t physical;
    uint64_t length;
    uint32_t unwritten;
} block_run;

/* One name of a directory block. */
typedef struct {
    uint32_t inode;
    uint16_t offset;
    uint16_t next_offset;
    uint8_t name_length;
    uint8_t file_type;
} directory_entry;

/* volume.c: opening, allocation, what a commit does. */
volume *volume_new(void *context, device_reader read, uint64_t size_bytes);
long volume_open(volume *volume);
void volume_free(volume *volume);
struct struct_ext2_filsys *volume_filesystem(volume *volume);
uint64_t volume_changes(const volume *volume);
uint64_t volume_free_blocks(volume *volume);
uint64_t volume_available_blocks(volume *volume);
uint64_t volume_blocks(volume *volume);
void volume_mark_system(volume *volume, uint64_t start, uint64_t length);
long volume_seal(volume *volume);
void volume_committed(volume *volume);
void volume_checkpointed(volume *volume);
long blocks_find(volume *volume, uint64_t goal, uint64_t wanted, uint64_t *start, uint64_t *length);
int blocks_are_used(volume *volume, uint64_t start, uint64_t length);
void blocks_take(volume *volume, uint64_t start, uint64_t length);
long blocks_reserve(volume *volume, uint64_t start, uint64_t length);
void blocks_release_reserved(volume *volume);
long blocks_give(volume *volume, uint64_t start, uint64_t length);

/* superblock.c: changing the superblock within one sector. */
void superblock_balance(unsigned char *superblock);

/* cache.c: the no-steal block cache. */
long cache_load(volume *volume, uint64_t block, unsigned char **data);
long cache_create(volume *volume, uint64_t block, unsigned char **data);
void cache_touch(volume *volume, uint64_t block);
void cache_forget(volume *volume, uint64_t block);
void cache_trim(volume *volume, uint64_t limit);
uint64_t cache_changed(const volume *volume);
uint64_t cache_unwritten(const volume *volume);
uint64_t cache_list_changed(volume *volume, uint64_t *blocks, uint64_t capacity);
uint64_t cache_list_unwritten(volume *volume, uint64_t *blocks, uint64_t capacity);
void cache_copy(volume *volume, const uint64_t *blocks, uint64_t count, unsigned char *target);

/* inode.c: inodes and what their extents map. */
long inode_load(volume *volume, uint32_t ino, struct ext2_inode_large **inode);
long inode_store(volume *volume, uint32_t ino);
long inode_allocate(volume *volume, uint32_t parent, uint32_t mode, uint32_t *ino);
long inode_release(volume *volume, uint32_t ino, int is_directory);
uint64_t inode_goal(volume *volume, uint32_t ino);
long map_find(volume *volume, uint32_t ino, uint64_t logical, block_run *run);
long map_insert(volume *volume, uint32_t ino, uint64_t logical, uint64_t physical, uint64_t length);
long map_convert(volume *volume, uint32_t ino, uint64_t logical, uint64_t physical, uint64_t length);
long map_cut(volume *volume, uint32_t ino, uint64_t logical, uint64_t budget, uint64_t *end);

/* directory.c: the entries of one directory block. */
long directory_blank(volume *volume, uint32_t directory, uint64_t block, uint32_t parent);
long directory_scan(volume *volume, uint32_t directory, uint64_t block, directory_entry *entries, uint32_t *count,
                    unsigned char **data);
long directory_add(volume *volume, uint32_t directory, uint64_t block, const char *name, uint32_t length, uint32_t ino,
                   uint32_t file_type);
long directory_drop(volume *volume, uint32_t directory, uint64_t block, const char *name, uint32_t length);
long directory_point(volume *volume, uint32_t directory, uint64_t block, const char *name, uint32_t length,
                     uint32_t ino, uint32_t file_type);
long directory_flatten(volume *volume, uint32_t directory, uint64_t block, int is_root);

/* xattr.c: between open and close the library has the inode to itself. */
long xattr_open(volume *volume, uint32_t ino, struct ext2_xattr_handle **handle);
void xattr_close(volume *volume, struct ext2_xattr_handle **handle);
long xattr_names(struct ext2_xattr_handle *handle, char *buffer, uint64_t capacity, uint64_t *length);
int xattr_present(volume *volume, uint32_t ino);
long xattr_release(volume *volume, uint32_t ino);
