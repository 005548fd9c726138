/* Runs the rows whose names contain one of the comma-separated words in $BENCH_ROWS, or all, and prints
     begin
     start NAME
     row NAME SECONDS CHECKSUM | skip NAME WHY | fail NAME WHY
     end SECONDS
   where the last is the time since `begin`. With an argument it prints names only. Other programs are in the
   working directory. */
#include "row.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

extern const struct row crc, sieve, quicksort, fibonacci, sha256, match, matrix_sse2, matrix_avx2, x87,
    memory_memcpy, memory_memset, getppid_row, signal_row, page_touch, fork_row, exec_row, pipe_row,
    switch_row, shell, applets, gcc_first, gcc_again;

static const struct row *const rows[] = {
    &crc, &sieve, &quicksort, &fibonacci, &sha256, &match,
    &matrix_sse2, &matrix_avx2,
    &x87,
    &memory_memcpy, &memory_memset,
    &getppid_row, &signal_row, &page_touch, &fork_row, &exec_row, &pipe_row, &switch_row,
    &shell, &applets,
    /* In this order: the first has to be the first. */
    &gcc_first, &gcc_again,
};

static const char *running;

_Noreturn void row_failed(const char *file, int line, const char *what) {
    const char *error = errno ? strerror(errno) : "";
    printf("fail %s %s:%d: expected %s %s\n", running, file, line, what, error);
    fflush(stdout);
    _exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static bool selected(const char *name, const char *words) {
    while (words && *words) {
        size_t length = strcspn(words, ",");
        if (length && memmem(name, strlen(name), words, length))
            return true;
        words += length + (words[length] == ',');
    }
    return false;
}

static void run(const struct row *row) {
    const char *obstacle = row->obstacle ? row->obstacle() : NULL;
    if (obstacle) {
        printf("skip %s %s\n", row->name, obstacle);
        return;
    }
    if (row->prepare)
        row->prepare();
    if (row->warm_up)
        row->work(row->warm_up);
    double start = now();
    uint64_t sum = row->work(row->times);
    printf("row %s %.6f %016llx\n", row->name, now() - start, (unsigned long long)sum);
}

/* In a process of its own: it takes its memory with it, and a crash ends only this row. */
static void run_alone(const struct row *row) {
    printf("start %s\n", row->name);
    fflush(stdout);
    /* The console's interrupts belong to no row. */
    tcdrain(STDOUT_FILENO);
    pid_t child = fork();
    if (child == 0) {
        running = row->name;
        errno = 0;
        run(row);
        fflush(stdout);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        printf("fail %s it has no process: %m\n", row->name);
    else if (WIFSIGNALED(status))
        printf("fail %s signal %d (%s)\n", row->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
}

int main(int count, char **) {
    if (count > 1) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            puts(rows[i]->name);
        return 0;
    }
    const char *words = getenv("BENCH_ROWS");
    double start = now();
    /* Firmware may have left something on the line. */
    printf("\nbegin\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!words || selected(rows[i]->name, words))
            run_alone(rows[i]);
    printf("end %.6f\n", now() - start);
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
    return 0;
}
