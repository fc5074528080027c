/* CRC-32C (slot.md 2.1) of small ranges: the CPU's own instruction where it has one, else a table.
 *
 * Call spoolq_crc_init once, before any thread computes; the module that includes this does so at
 * import.  Large ranges belong to fastcrc, which folds by wide vectors.
 */
#ifndef SPOOLQ_CRC32C_H
#define SPOOLQ_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SPOOLQ_CRC_POLYNOMIAL 0x82F63B78u

static uint32_t spoolq_crc_table[8][256];
static int spoolq_crc_by_cpu = 0;

static uint32_t spoolq_crc32c_table(const unsigned char *data, size_t nbytes, uint32_t crc) {
    crc = ~crc;
    while (nbytes >= 8) { /* eight bytes a step: one look-up in each table */
        uint32_t low = crc ^ (data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        crc = spoolq_crc_table[7][low & 0xFF] ^ spoolq_crc_table[6][low >> 8 & 0xFF] ^
              spoolq_crc_table[5][low >> 16 & 0xFF] ^ spoolq_crc_table[4][low >> 24] ^ spoolq_crc_table[3][data[4]] ^
              spoolq_crc_table[2][data[5]] ^ spoolq_crc_table[1][data[6]] ^ spoolq_crc_table[0][data[7]];
        data += 8;
        nbytes -= 8;
    }
    while (nbytes--)
        crc = crc >> 8 ^ spoolq_crc_table[0][(crc ^ *data++) & 0xFF];
    return ~crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>

/* The instruction takes 3 cycles and one can start each cycle, so three lanes run at once.  The CRC
 * of a lane is carried over the lanes behind it by a table: what `lane` zero bytes make of it. */
#define SPOOLQ_CRC_LANE 64
static uint32_t spoolq_crc_shift[4][256];

static inline uint32_t spoolq_crc_over_lane(uint32_t crc) {
    return spoolq_crc_shift[0][crc & 0xFF] ^ spoolq_crc_shift[1][crc >> 8 & 0xFF] ^
           spoolq_crc_shift[2][crc >> 16 & 0xFF] ^ spoolq_crc_shift[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t spoolq_crc32c_cpu(const unsigned char *data, size_t nbytes,
                                                                      uint32_t crc) {
    uint64_t first = ~crc, second, third, a, b, c;
    uint32_t narrow;
    while (nbytes >= 3 * SPOOLQ_CRC_LANE) {
        second = third = 0;
        for (size_t at = 0; at < SPOOLQ_CRC_LANE; at += 8) {
            memcpy(&a, data + at, 8);
            memcpy(&b, data + at + SPOOLQ_CRC_LANE, 8);
            memcpy(&c, data + at + 2 * SPOOLQ_CRC_LANE, 8);
            first = _mm_crc32_u64(first, a);
            second = _mm_crc32_u64(second, b);
            third = _mm_crc32_u64(third, c);
        }
        first = spoolq_crc_over_lane((uint32_t)first) ^ second;
        first = spoolq_crc_over_lane((uint32_t)first) ^ third;
        data += 3 * SPOOLQ_CRC_LANE;
        nbytes -= 3 * SPOOLQ_CRC_LANE;
    }
    while (nbytes >= 8) {
        memcpy(&a, data, 8);
        first = _mm_crc32_u64(first, a);
        data += 8;
        nbytes -= 8;
    }
    narrow = (uint32_t)first;
    while (nbytes--)
        narrow = _mm_crc32_u8(narrow, *data++);
    return ~narrow;
}

static void spoolq_crc_cpu_init(void) {
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t value = 0; value < 256; value++) {
            uint32_t crc = value << 8 * byte;
            for (int zero = 0; zero < SPOOLQ_CRC_LANE; zero++)
                crc = crc >> 8 ^ spoolq_crc_table[0][crc & 0xFF];
            spoolq_crc_shift[byte][value] = crc;
        }
}

static int spoolq_cpu_has_crc(void) { return __builtin_cpu_supports("sse4.2"); }
#else
static uint32_t spoolq_crc32c_cpu(const unsigned char *data, size_t nbytes, uint32_t crc) {
    return spoolq_crc32c_table(data, nbytes, crc);
}

static void spoolq_crc_cpu_init(void) {}

static int spoolq_cpu_has_crc(void) { return 0; }
#endif

static inline uint32_t spoolq_crc32c(const unsigned char *data, size_t nbytes, uint32_t crc) {
    return spoolq_crc_by_cpu ? spoolq_crc32c_cpu(data, nbytes, crc) : spoolq_crc32c_table(data, nbytes, crc);
}

static void spoolq_crc_init(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? SPOOLQ_CRC_POLYNOMIAL : 0);
        spoolq_crc_table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int step = 1; step < 8; step++) {
            uint32_t before = spoolq_crc_table[step - 1][byte];
            spoolq_crc_table[step][byte] = before >> 8 ^ spoolq_crc_table[0][before & 0xFF];
        }
    spoolq_crc_cpu_init();
    spoolq_crc_by_cpu = spoolq_cpu_has_crc();
}

#endif
