/* Rows on the network. The host side is xtask/src/bench/io/host.rs: a connection's first byte says what it is for.
   What is sent counts when the host has it. */
#include "row.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PORT = 7777,
    /* Bytes of one write or read, and of a datagram. */
    PIECE = 64 << 10,
    DATAGRAM = 64,
    /* Datagrams between two acknowledgements. */
    BATCH = 32,
};

static struct sockaddr_in net_address(const char *target) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    REQUIRE(inet_pton(AF_INET, target, &address.sin_addr) == 1);
    return address;
}

static int net_connect(int type, const char *target, const char *purpose) {
    struct sockaddr_in address = net_address(target);
    int stream = socket(AF_INET, type, 0), on = 1;
    struct timeval limit = {.tv_sec = 5};
    REQUIRE(stream >= 0 && connect(stream, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(setsockopt(stream, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    if (type == SOCK_STREAM)
        REQUIRE(setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    REQUIRE(write(stream, purpose, strlen(purpose)) == (ssize_t)strlen(purpose));
    return stream;
}

static char *net_piece(void) {
    char *piece = malloc(PIECE);
    REQUIRE(piece);
    memset(piece, 0x5a, PIECE);
    return piece;
}

double net_tcp_send(const struct work *, const char *target) {
    int stream = net_connect(SOCK_STREAM, target, "s");
    char *piece = net_piece();
    double start = now(), end = start + WARM_UP;
    uint64_t sent = 0, before = 0, arrived;
    for (bool warm = false;;) {
        ssize_t size = write(stream, piece, PIECE);
        REQUIRE(size > 0);
        sent += size;
        double time = now();
        if (time < end)
            continue;
        if (warm)
            break;
        warm = true;
        start = time;
        end = start + MEASURED;
        before = sent;
    }
    REQUIRE(shutdown(stream, SHUT_WR) == 0);
    REQUIRE(recv(stream, &arrived, sizeof arrived, MSG_WAITALL) == sizeof arrived && arrived == sent);
    return (sent - before) / 1048576.0 / (now() - start);
}

double net_tcp_receive(const struct work *, const char *target) {
    int stream = net_connect(SOCK_STREAM, target, "r");
    char *piece = net_piece();
    double start = now(), end = start + WARM_UP;
    uint64_t received = 0;
    for (bool warm = false;;) {
        ssize_t size = read(stream, piece, PIECE);
        REQUIRE(size > 0);
        received += size;
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return received / 1048576.0 / (time - start);
        warm = true;
        start = time;
        end = start + MEASURED;
        received = 0;
    }
}

double net_tcp_echo(const struct work *, const char *target) {
    int stream = net_connect(SOCK_STREAM, target, "e");
    double start = now(), end = start + WARM_UP;
    uint64_t done = 0;
    for (bool warm = false;;) {
        char byte = done, answer;
        REQUIRE(write(stream, &byte, 1) == 1);
        REQUIRE(read(stream, &answer, 1) == 1 && answer == byte);
        done++;
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return (time - start) * 1e6 / done;
        warm = true;
        start = time;
        end = start + MEASURED;
        done = 0;
    }
}

/* Connections, each for one byte and back. */
double net_tcp_connect(const struct work *, const char *target) {
    double start = now(), end = start + WARM_UP;
    uint64_t done = 0;
    for (bool warm = false;;) {
        char byte = done, answer;
        int stream = net_connect(SOCK_STREAM, target, "e");
        REQUIRE(write(stream, &byte, 1) == 1);
        REQUIRE(read(stream, &answer, 1) == 1 && answer == byte);
        REQUIRE(close(stream) == 0);
        done++;
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

/* How many datagrams the host has received since the connection for that was made. */
static uint64_t net_arrived(int control) {
    uint64_t count;
    REQUIRE(write(control, "?", 1) == 1);
    REQUIRE(recv(control, &count, sizeof count, MSG_WAITALL) == sizeof count);
    return count;
}

double net_udp_send(const struct work *, const char *target) {
    int control = net_connect(SOCK_STREAM, target, "c");
    int socket = net_connect(SOCK_DGRAM, target, "");
    char datagram[DATAGRAM] = {0};
    double start = now(), end = start + WARM_UP;
    uint64_t before = 0;
    for (bool warm = false;;) {
        REQUIRE(write(socket, datagram, sizeof datagram) == sizeof datagram);
        double time = now();
        if (time < end)
            continue;
        uint64_t arrived = net_arrived(control);
        if (warm) {
            REQUIRE(arrived > before);
            return (arrived - before) / (now() - start);
        }
        warm = true;
        before = arrived;
        start = now();
        end = start + MEASURED;
    }
}

double net_udp_receive(const struct work *, const char *target) {
    /* The first datagram says where to send to; then each acknowledges a batch. */
    int control = net_connect(SOCK_STREAM, target, "u");
    uint16_t port;
    REQUIRE(recv(control, &port, sizeof port, MSG_WAITALL) == sizeof port);
    struct sockaddr_in address = net_address(target);
    address.sin_port = htons(port);
    int socket = net_connect(SOCK_DGRAM, target, "");
    REQUIRE(connect(socket, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(write(socket, "", 1) == 1);
    double start = now(), end = start + WARM_UP;
    uint64_t received = 0;
    for (bool warm = false;;) {
        char datagram[DATAGRAM];
        for (int i = 0; i < BATCH; i++)
            REQUIRE(recv(socket, datagram, sizeof datagram, 0) == sizeof datagram);
        REQUIRE(write(socket, "", 1) == 1);
        received += BATCH;
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return received / (time - start);
        warm = true;
        start = time;
        end = start + MEASURED;
        received = 0;
    }
}
