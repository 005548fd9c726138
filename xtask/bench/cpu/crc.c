/* CRC-32, a table entry for each byte: loads that depend on each other. */
#include "row.h"

enum { CRC_SIZE = 256 << 10 };

static uint32_t crc_table[256];
static uint8_t *crc_data;

static void crc_prepare(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t rest = i;
        for (int bit = 0; bit < 8; bit++)
            rest = rest >> 1 ^ (rest & 1 ? 0xedb88320 : 0);
        crc_table[i] = rest;
    }
    crc_data = allocate(CRC_SIZE);
    uint64_t state = 1;
    for (size_t i = 0; i < CRC_SIZE; i++)
        crc_data[i] = next_random(&state);
}

static uint64_t crc_work(unsigned times) {
    uint32_t crc = ~0u;
    while (times--)
        for (size_t i = 0; i < CRC_SIZE; i++)
            crc = crc >> 8 ^ crc_table[(crc ^ crc_data[i]) & 0xff];
    return crc;
}

const struct row crc = {
    .name = "integer/crc",
    .prepare = crc_prepare,
    .work = crc_work,
    .warm_up = 8,
    .times = 400,
};
