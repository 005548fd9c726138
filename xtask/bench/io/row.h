/* What the rows share. A row is a piece of work on a target; both are put together in main.c. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct work {
    const char *name;
    /* What the result counts. Less is better if it is "us", otherwise more. */
    const char *unit;
    double (*run)(const struct work *work, const char *target);
    /* Of work on disks; bytes and requests at once. */
    uint32_t size;
    unsigned depth;
    bool write, flush;
    enum { SEQUENTIAL, RANDOM, FIRST_HALF, SECOND_HALF } order;
};

/* Seconds until caches are warm and code is translated, and those measured then. */
#define WARM_UP 0.5
#define MEASURED 0.75

/* Ends the row's process. */
#define REQUIRE(x) \
    do { \
        if (!(x)) \
            row_failed(__FILE__, __LINE__, #x); \
    } while (0)

_Noreturn void row_failed(const char *file, int line, const char *what);

/* Seconds, from an arbitrary start. */
double now(void);

/* On the block device or the file `target`. */
double disk_alone(const struct work *work, const char *target);
double disk_queue(const struct work *work, const char *target);

/* In the directory `target`. */
double fs_write(const struct work *work, const char *target);
double fs_read(const struct work *work, const char *target);
double fs_create(const struct work *work, const char *target);

/* With the host side at the address `target`. */
double net_tcp_send(const struct work *work, const char *target);
double net_tcp_receive(const struct work *work, const char *target);
double net_tcp_echo(const struct work *work, const char *target);
double net_tcp_connect(const struct work *work, const char *target);
double net_udp_send(const struct work *work, const char *target);
double net_udp_receive(const struct work *work, const char *target);
