/* The io_manager of libext2fs over the block cache. */
#include "volume.h"

static errcode_t channel_open(const char *name, int flags, io_channel *result)
{
    volume *volume;
    io_channel channel = calloc(1, sizeof(*channel));

    (void)flags;
    if (!channel || sscanf(name, "%p", (void **)&volume) != 1) {
        free(channel);
        return EXT2_ET_NO_MEMORY;
    }
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = &volume->manager;
    channel->name = strdup(name);
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->private_data = volume;
    *result = channel;
    return 0;
}

static errcode_t channel_close(io_channel channel)
{
    if (--channel->refcount == 0) {
        free(channel->name);
        free(channel);
    }
    return 0;
}

static errcode_t channel_set_blksize(io_channel channel, int block_size)
{
    channel->block_size = block_size;
    return 0;
}

/* A negative count is a number of bytes. */
static size_t request_bytes(io_channel channel, int count)
{
    return count < 0 ? (size_t)-(long)count : (size_t)count * channel->block_size;
}

static errcode_t channel_read(io_channel channel, unsigned long long block, int count, void *data)
{
    volume *volume = channel->private_data;
    uint64_t offset = block * channel->block_size;
    size_t left = request_bytes(channel, count);

    while (left) {
        struct cached_block *cached;
        size_t skip = offset % BLOCK_SIZE;
        size_t piece = left < BLOCK_SIZE - skip ? left : BLOCK_SIZE - skip;
        errcode_t error = cache_read_block(volume, offset / BLOCK_SIZE, &cached);
        if (error)
            return error;
        memcpy(data, cached->data + skip, piece);
        data = (char *)data + piece;
        offset += piece;
        left -= piece;
    }
    return 0;
}

static errcode_t write_part(volume *volume, uint64_t offset, const void *data, size_t length)
{
    struct cached_block *cached;
    errcode_t error = cache_read_block(volume, offset / BLOCK_SIZE, &cached);

    if (error)
        return error;
    memcpy(cached->data + offset % BLOCK_SIZE, data, length);
    cache_change(volume, cached);
    return 0;
}

static errcode_t channel_write(io_channel channel, unsigned long long block, int count, const void *data)
{
    volume *volume = channel->private_data;
    uint64_t offset = block * channel->block_size;
    size_t left = request_bytes(channel, count);

    while (left) {
        size_t skip = offset % BLOCK_SIZE;
        size_t piece = left < BLOCK_SIZE - skip ? left : BLOCK_SIZE - skip;
        errcode_t error = piece == BLOCK_SIZE ? cache_write_block(volume, offset / BLOCK_SIZE, data)
                                              : write_part(volume, offset, data, piece);
        if (error)
            return error;
        data = (const char *)data + piece;
        offset += piece;
        left -= piece;
    }
    return 0;
}

static errcode_t channel_read32(io_channel channel, unsigned long block, int count, void *data)
{
    return channel_read(channel, block, count, data);
}

static errcode_t channel_write32(io_channel channel, unsigned long block, int count, const void *data)
{
    return channel_write(channel, block, count, data);
}

static errcode_t channel_zeroout(io_channel channel, unsigned long long block, unsigned long long count)
{
    unsigned char *data;

    for (; count; block++, count--) {
        errcode_t error = cache_create(channel->private_data, block, &data);
        if (error)
            return error;
    }
    return 0;
}

static errcode_t channel_flush(io_channel channel)
{
    (void)channel;
    return 0;
}

void channel_init(volume *volume)
{
    volume->manager = (struct struct_io_manager){
        .magic = EXT2_ET_MAGIC_IO_MANAGER,
        .name = "ghostdump block cache",
        .open = channel_open,
        .close = channel_close,
        .set_blksize = channel_set_blksize,
        .read_blk = channel_read32,
        .write_blk = channel_write32,
        .read_blk64 = channel_read,
        .write_blk64 = channel_write,
        .zeroout = channel_zeroout,
        .flush = channel_flush,
    };
}
