/*
 * The block cache. It never steals: a changed block leaves it only when Python has put it into the journal, and is
 * dropped only when it is clean again.
 */
#include "volume.h"

#define FIRST_SLOTS 1024

void cache_init(struct cache *cache)
{
    memset(cache, 0, sizeof(*cache));
    TAILQ_INIT(&cache->changed);
    TAILQ_INIT(&cache->unwritten);
}

void cache_destroy(struct cache *cache)
{
    for (uint64_t slot = 0; slot < cache->slot_count; slot++)
        for (struct cached_block *block = cache->slots[slot], *next; block; block = next) {
            next = block->chain;
            free(block);
        }
    free(cache->slots);
}

static uint64_t slot_of(const struct cache *cache, uint64_t number)
{
    return (number * 0x9E3779B97F4A7C15ULL >> 20) & (cache->slot_count - 1);
}

struct cached_block *cache_lookup(const struct cache *cache, uint64_t number)
{
    if (!cache->slot_count)
        return NULL;
    struct cached_block *block = cache->slots[slot_of(cache, number)];
    while (block && block->number != number)
        block = block->chain;
    return block;
}

static long grow(struct cache *cache)
{
    struct cache larger = *cache;

    larger.slot_count = cache->slot_count ? cache->slot_count * 4 : FIRST_SLOTS;
    larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
    if (!larger.slots)
        return ENOMEM;
    for (uint64_t slot = 0; slot < cache->slot_count; slot++)
        for (struct cached_block *block = cache->slots[slot], *next; block; block = next) {
            next = block->chain;
            block->chain = larger.slots[slot_of(&larger, block->number)];
            larger.slots[slot_of(&larger, block->number)] = block;
        }
    free(cache->slots);
    cache->slots = larger.slots;
    cache->slot_count = larger.slot_count;
    return 0;
}

static long insert(struct cache *cache, uint64_t number, struct cached_block **result)
{
    if (cache->count >= cache->slot_count) {
        long error = grow(cache);
        if (error)
            return error;
    }
    struct cached_block *block = malloc(sizeof(*block));
    if (!block)
        return ENOMEM;
    memset(block, 0, offsetof(struct cached_block, data));
    block->number = number;
    block->referenced = 1;
    block->chain = cache->slots[slot_of(cache, number)];
    cache->slots[slot_of(cache, number)] = block;
    cache->count++;
    *result = block;
    return 0;
}

static void unlist(struct cache *cache, struct cached_block *block)
{
    if (block->state == CACHE_CHANGED) {
        TAILQ_REMOVE(&cache->changed, block, link);
        cache->changed_count--;
    } else if (block->state == CACHE_UNWRITTEN) {
        TAILQ_REMOVE(&cache->unwritten, block, link);
        cache->unwritten_count--;
    }
    block->state = CACHE_CLEAN;
}

void cache_change(volume *volume, struct cached_block *block)
{
    volume->changes++;
    if (block->state == CACHE_CHANGED)
        return;
    unlist(&volume->cache, block);
    block->state = CACHE_CHANGED;
    TAILQ_INSERT_TAIL(&volume->cache.changed, block, link);
    volume->cache.changed_count++;
}

long cache_read_block(volume *volume, uint64_t number, struct cached_block **result)
{
    struct cached_block *block = cache_lookup(&volume->cache, number);

    if (!block) {
        if (number >= volume->size_bytes / BLOCK_SIZE)
            return EXT2_ET_SHORT_READ;
        long error = insert(&volume->cache, number, &block);
        if (error)
            return error;
        error = volume->read(volume->context, number * BLOCK_SIZE, block->data, BLOCK_SIZE);
        if (error) {
            cache_forget(volume, number);
            return error;
        }
    }
    block->referenced = 1;
    *result = block;
    return 0;
}

/* A block that is about to be written whole: nothing of its old content is kept, so nothing is read. */
static long blank_block(volume *volume, uint64_t number, struct cached_block **result)
{
    struct cached_block *block = cache_lookup(&volume->cache, number);

    if (!block) {
        long error = insert(&volume->cache, number, &block);
        if (error)
            return error;
    }
    memset(block->data, 0, BLOCK_SIZE);
    block->verified = 0;
    block->directory = 0;
    cache_change(volume, block);
    *result = block;
    return 0;
}

long cache_write_block(volume *volume, uint64_t number, const void *data)
{
    struct cached_block *block = cache_lookup(&volume->cache, number);

    if (block && !memcmp(block->data, data, BLOCK_SIZE))
        return 0;
    if (!block) {
        long error = insert(&volume->cache, number, &block);
        if (error)
            return error;
    }
    memcpy(block->data, data, BLOCK_SIZE);
    cache_change(volume, block);
    return 0;
}

long cache_load(volume *volume, uint64_t number, unsigned char **data)
{
    struct cached_block *block;
    long error = cache_read_block(volume, number, &block);

    if (!error)
        *data = block->data;
    return error;
}

long cache_create(volume *volume, uint64_t number, unsigned char **data)
{
    struct cached_block *block;
    long error = blank_block(volume, number, &block);

    if (!error)
        *data = block->data;
    return error;
}

void cache_touch(volume *volume, uint64_t number)
{
    struct cached_block *block = cache_lookup(&volume->cache, number);

    if (block)
        cache_change(volume, block);
}

static void drop(struct cache *cache, struct cached_block **place)
{
    struct cached_block *block = *place;

    unlist(cache, block);
    *place = block->chain;
    cache->count--;
    free(block);
}

void cache_forget(volume *volume, uint64_t number)
{
    struct cache *cache = &volume->cache;

    if (!cache->slot_count)
        return;
    struct cached_block **place = &cache->slots[slot_of(cache, number)];
    while (*place && (*place)->number != number)
        place = &(*place)->chain;
    if (*place)
        drop(cache, place);
}

/* Second chance: a clean block that was not used since the last trim goes. */
void cache_trim(volume *volume, uint64_t limit)
{
    struct cache *cache = &volume->cache;

    if (cache->count <= limit)
        return;
    for (uint64_t slot = 0; slot < cache->slot_count; slot++)
        for (struct cached_block **place = &cache->slots[slot]; *place;) {
            struct cached_block *block = *place;
            if (block->state == CACHE_CLEAN && !block->referenced) {
                drop(cache, place);
            } else {
                block->referenced = 0;
                place = &block->chain;
            }
        }
}

/* Move every block of a state on to the next: changed -> unwritten -> clean. */
void cache_settle(volume *volume, enum cache_state from)
{
    struct cache *cache = &volume->cache;
    struct block_list *list = from == CACHE_CHANGED ? &cache->changed : &cache->unwritten;
    struct cached_block *block;

    while ((block = TAILQ_FIRST(list))) {
        unlist(cache, block);
        if (from == CACHE_CHANGED) {
            block->state = CACHE_UNWRITTEN;
            TAILQ_INSERT_TAIL(&cache->unwritten, block, link);
            cache->unwritten_count++;
        }
    }
}

uint64_t cache_changed(const volume *volume)
{
    return volume->cache.changed_count;
}

uint64_t cache_unwritten(const volume *volume)
{
    return volume->cache.unwritten_count;
}

static uint64_t list_numbers(const struct block_list *list, uint64_t *blocks, uint64_t capacity)
{
    uint64_t count = 0;
    struct cached_block *block;

    TAILQ_FOREACH(block, list, link) {
        if (count == capacity)
            break;
        blocks[count++] = block->number;
    }
    return count;
}

uint64_t cache_list_changed(volume *volume, uint64_t *blocks, uint64_t capacity)
{
    return list_numbers(&volume->cache.changed, blocks, capacity);
}

uint64_t cache_list_unwritten(volume *volume, uint64_t *blocks, uint64_t capacity)
{
    return list_numbers(&volume->cache.unwritten, blocks, capacity);
}

/* The content of cached blocks, one after another. Python passes only numbers that it was just given. */
void cache_copy(volume *volume, const uint64_t *blocks, uint64_t count, unsigned char *target)
{
    for (uint64_t i = 0; i < count; i++)
        memcpy(target + i * BLOCK_SIZE, cache_lookup(&volume->cache, blocks[i])->data, BLOCK_SIZE);
}
