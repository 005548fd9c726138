/* Rows in a directory that the host shares. What is written is the host's before the next row. */
#include "row.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PIECE = 128 << 10,
    PIECES = 1024,
    SMALL = 4 << 10,
    /* Small files that there are at once. */
    FILES = 64,
};

static void *fs_piece(void) {
    void *piece = aligned_alloc(4096, PIECE);
    REQUIRE(piece);
    memset(piece, 0x5a, PIECE);
    return piece;
}

static void fs_path(char path[static 256], const char *target, const char *name, unsigned number) {
    REQUIRE(snprintf(path, 256, "%s/%s-%u", target, name, number) < 256);
}

/* Piece by piece, over and over: MiB a second. */
static double fs_transfer(int file, void *piece, bool write) {
    double start = now(), end = start + WARM_UP;
    uint64_t done = 0;
    for (bool warm = false;; done++) {
        off_t at = done % PIECES * PIECE;
        REQUIRE((write ? pwrite(file, piece, PIECE, at) : pread(file, piece, PIECE, at)) == PIECE);
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return done * (double)PIECE / (1 << 20) / (time - start);
        warm = true;
        start = time;
        end = start + MEASURED;
        done = 0;
    }
}

double fs_write(const struct work *, const char *target) {
    char path[256];
    fs_path(path, target, "large", 0);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    REQUIRE(file >= 0);
    return fs_transfer(file, fs_piece(), true);
}

/* Past the guest's page cache. */
double fs_read(const struct work *, const char *target) {
    char path[256];
    fs_path(path, target, "large", 1);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    REQUIRE(file >= 0);
    void *piece = fs_piece();
    for (unsigned i = 0; i < PIECES; i++)
        REQUIRE(write(file, piece, PIECE) == PIECE);
    REQUIRE(close(file) == 0);
    file = open(path, O_RDONLY | O_DIRECT);
    REQUIRE(file >= 0);
    return fs_transfer(file, piece, false);
}

/* Files that are made, written and, some files later, removed. */
double fs_create(const struct work *, const char *target) {
    char path[256];
    void *piece = fs_piece();
    double start = now(), end = start + WARM_UP;
    unsigned number = 0;
    uint64_t done = 0;
    for (bool warm = false;; done++, number++) {
        fs_path(path, target, "small", number);
        int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        REQUIRE(file >= 0 && write(file, piece, SMALL) == SMALL && close(file) == 0);
        if (number >= FILES) {
            fs_path(path, target, "small", number - FILES);
            REQUIRE(unlink(path) == 0);
        }
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return done / (time - start);
        warm = true;
        start = time;
        end = start + MEASURED;
        done = 0;
    }
}
