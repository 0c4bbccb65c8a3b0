/*
 * The superblock spans two sectors: every field that changes lies in the first, the checksum in the second. A power cut
 * between them leaves a superblock that e2fsck and the kernel refuse, before they would replay the journal. So the
 * checksum is left as it is, and a field that nobody reads (s_snapshot_id, of a feature that never came) takes the
 * value that makes the checksum right: only the first sector changes, and a sector is written whole or not at all.
 */
#include "volume.h"

#define CHECKSUM_OFFSET offsetof(struct ext2_super_block, s_checksum)
#define BALANCE_OFFSET offsetof(struct ext2_super_block, s_snapshot_id)

/* A CRC is linear: what one bit of the balance adds to it does not depend on the rest. */
static uint32_t effect_of_bit(unsigned bit)
{
    unsigned char zeros[CHECKSUM_OFFSET] = {0};

    zeros[BALANCE_OFFSET + bit / 8] = 1 << bit % 8;
    return ext2fs_crc32c_le(0, zeros, sizeof(zeros));
}

/* Gauss-Jordan over bits: afterwards combination[i] holds the balance bits that change bit i of the CRC alone. */
static void solve(uint32_t combination[32])
{
    uint32_t effect[32], bits[32];

    for (unsigned i = 0; i < 32; i++) {
        effect[i] = effect_of_bit(i);
        bits[i] = 1u << i;
    }
    for (unsigned column = 0; column < 32; column++) {
        unsigned pivot = column;
        while (!(effect[pivot] >> column & 1))
            pivot++; /* found always: a CRC of 32 bits tells all values of a 32-bit word apart */
        uint32_t pivot_effect = effect[pivot], pivot_bits = bits[pivot];
        effect[pivot] = effect[column];
        bits[pivot] = bits[column];
        effect[column] = pivot_effect;
        bits[column] = pivot_bits;
        for (unsigned row = 0; row < 32; row++)
            if (row != column && effect[row] >> column & 1) {
                effect[row] ^= pivot_effect;
                bits[row] ^= pivot_bits;
            }
    }
    memcpy(combination, bits, sizeof(bits));
}

static int has_checksum(const unsigned char *superblock)
{
    struct ext2_super_block *super = (struct ext2_super_block *)superblock;

    return ext2fs_has_feature_metadata_csum(super) != 0;
}

/* Make the checksum that stands in the superblock right again. */
void superblock_balance(unsigned char *superblock)
{
    static uint32_t combination[32];
    uint32_t stored, balance, difference;

    if (!has_checksum(superblock))
        return;
    if (!combination[0])
        solve(combination);
    memcpy(&stored, superblock + CHECKSUM_OFFSET, sizeof(stored));
    memcpy(&balance, superblock + BALANCE_OFFSET, sizeof(balance));
    difference = stored ^ ext2fs_crc32c_le(~0, superblock, CHECKSUM_OFFSET);
    for (unsigned bit = 0; bit < 32; bit++)
        if (difference >> bit & 1)
            balance ^= combination[bit];
    memcpy(superblock + BALANCE_OFFSET, &balance, sizeof(balance));
}
