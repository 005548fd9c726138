/* Runs in the guest; prints "ok NAME" for each check that passes and exits with the number that do not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define REQUIRE(x)                                                                     \
    do {                                                                               \
        if (!(x)) {                                                                    \
            printf("line %d: %s (errno %d)\n", __LINE__, #x, errno);                   \
            return 0;                                                                  \
        }                                                                              \
    } while (0)

static sigjmp_buf back;
static volatile sig_atomic_t caught, alarms;
static void *volatile fault_address;
static volatile long fault_code;

static void on_fault(int signal, siginfo_t *info, void *context) {
    caught = signal;
    fault_address = info->si_addr;
    fault_code = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

static void on_alarm(int signal) { alarms += signal == SIGALRM; }

static int signals(void) {
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGFPE, &fault, NULL);
    sigaction(SIGILL, &fault, NULL);
    sigaction(SIGTRAP, &fault, NULL);
    if (!sigsetjmp(back, 1)) *(volatile int *)0x1234 = 1;
    REQUIRE(caught == SIGSEGV && fault_address == (void *)0x1234);
    /* A write by the user to a page that is not there: error code 6. */
    REQUIRE(fault_code == 6);
    volatile int zero = 0;
    caught = 0;
    if (!sigsetjmp(back, 1)) zero = 100 / zero;
    REQUIRE(caught == SIGFPE);
    caught = 0;
    if (!sigsetjmp(back, 1)) __asm__ volatile("ud2");
    REQUIRE(caught == SIGILL);
    caught = 0;
    if (!sigsetjmp(back, 1)) __asm__ volatile("int3");
    REQUIRE(caught == SIGTRAP);
    /* One single step. */
    caught = 0;
    if (!sigsetjmp(back, 1))
        __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" ::: "cc", "memory");
    REQUIRE(caught == SIGTRAP);
    /* Registers, the vector ones too, survive a signal that comes at any moment. */
    struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    double sum = 0;
    uint64_t check = 0;
    for (uint64_t i = 1; alarms < 5 && i < 200000000; i++) {
        sum += 1.0;
        check += i;
        REQUIRE(sum == (double)i && check == i * (i + 1) / 2);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    REQUIRE(alarms >= 5);
    return 1;
}

static int forks(void) {
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    static int private_copy = 1;
    REQUIRE(shared != MAP_FAILED);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            private_copy += i; /* copied on write */
            shared[i] = private_copy;
            _exit(i);
        }
        int status;
        REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
        REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == i && shared[i] == 1 + i && private_copy == 1);
    }
    int ends[2];
    char text[6] = "";
    REQUIRE(pipe(ends) == 0);
    if (fork() == 0) {
        execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(99);
    }
    int status;
    REQUIRE(wait(&status) > 0 && WEXITSTATUS(status) == 7);
    if (fork() == 0) _exit(write(ends[1], "hello", 5) != 5);
    REQUIRE(read(ends[0], text, 5) == 5 && strcmp(text, "hello") == 0 && wait(&status) > 0);
    munmap(shared, 4096);
    return 1;
}

static int maps(void) {
    size_t size = 8 << 20;
    unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    for (size_t i = 0; i < size; i += 4096) {
        REQUIRE(p[i] == 0);
        p[i] = i >> 12;
    }
    for (size_t i = 0; i < size; i += 4096) REQUIRE(p[i] == (unsigned char)(i >> 12));
    /* An access over a page boundary, and the same page at two addresses. */
    *(uint64_t *)(p + 4093) = 0x1122334455667788;
    REQUIRE(*(uint64_t *)(p + 4093) == 0x1122334455667788 && p[4096] == 0x55);
    REQUIRE(mprotect(p, 4096, PROT_READ) == 0);
    caught = 0;
    if (!sigsetjmp(back, 1)) p[5] = 1;
    /* A write by the user to a page that is there: error code 7. */
    REQUIRE(caught == SIGSEGV && fault_address == p + 5 && fault_code == 7);
    REQUIRE(mprotect(p, 4096, PROT_NONE) == 0);
    caught = 0;
    if (!sigsetjmp(back, 1)) caught = p[5] == 0 ? -1 : -2;
    REQUIRE(caught == SIGSEGV);
    REQUIRE(mremap(p + 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p && p[0] == 0x55 && p[3] == 0x22);
    REQUIRE(munmap(p, size) == 0);
    caught = 0;
    if (!sigsetjmp(back, 1)) caught = p[8192] ? -1 : -2;
    REQUIRE(caught == SIGSEGV);
    return 1;
}

static int x87(void) {
    volatile long double third = 1.0L / 3.0L, big = 1e4000L;
    REQUIRE(sizeof third == 16 && third * 3.0L == 1.0L && isfinite(big) && isinf((double)big));
    unsigned char bytes[16];
    memcpy(bytes, (void *)&third, 10);
    static const unsigned char expected[10] = {0xab, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xfd, 0x3f};
    REQUIRE(memcmp(bytes, expected, 10) == 0);
    volatile long double angle = 1.0L;
    REQUIRE(fabsl(sinl(angle) * sinl(angle) + cosl(angle) * cosl(angle) - 1.0L) < 1e-18L);
    REQUIRE(fabsl(expl(logl(7.0L)) - 7.0L) < 1e-17L);
    return 1;
}

static int sse(void) {
    volatile double a = 0.1, b = 0.2, three = 3;
    REQUIRE(a + b == 0.30000000000000004 && a + b != 0.3);
    fesetround(FE_UPWARD);
    volatile double up = 1.0 / three;
    fesetround(FE_DOWNWARD);
    volatile double down = 1.0 / three;
    fesetround(FE_TONEAREST);
    REQUIRE(up > down && up - down < 1e-15);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double zero = 0, inf = 1.0 / zero;
    REQUIRE(isinf(inf) && fetestexcept(FE_DIVBYZERO));
    volatile float tiny = 1e-45f;
    REQUIRE(tiny > 0 && tiny / 2 == 0);
    REQUIRE(fabs(sqrt(2.0) * sqrt(2.0) - 2.0) < 1e-15 && fabs(sin(1e6) + 0.34999350217129294) < 1e-12);
    return 1;
}

static int self_modifying(void) {
    /* mov eax, imm32; ret */
    unsigned char *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(code != MAP_FAILED);
    static const size_t places[] = {0, 4093}; /* the second lies across a page boundary */
    for (int p = 0; p < 2; p++) {
        unsigned char *at = code + places[p];
        memcpy(at, "\xb8\0\0\0\0\xc3", 6);
        int (*function)(void) = (int (*)(void))at;
        for (int i = 0; i < 1000; i++) {
            memcpy(at + 1, &i, 4);
            REQUIRE(function() == i);
        }
    }
    /* Code that changes the instruction after next: mov byte [rip+imm of the mov eax], 42; mov eax, 0; ret */
    memcpy(code, "\xc6\x05\x01\0\0\0\x2a\xb8\0\0\0\0\xc3", 13);
    for (int i = 0; i < 10; i++) {
        code[8] = 0;
        REQUIRE(((int (*)(void))code)() == 42);
    }
    /* No execution without permission. */
    REQUIRE(mprotect(code, 4096, PROT_READ) == 0);
    caught = 0;
    if (!sigsetjmp(back, 1)) ((void (*)(void))code)();
    REQUIRE(caught == SIGSEGV && fault_address == code);
    return 1;
}

static atomic_long total;
static long plain;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread long mine;

static void *work(void *arg) {
    for (int i = 0; i < 50000; i++) {
        atomic_fetch_add(&total, 1);
        mine++;
        if (i % 10 == 0) {
            pthread_mutex_lock(&lock);
            plain++;
            pthread_mutex_unlock(&lock);
        }
    }
    return (void *)(mine + (long)arg);
}

static int threads(void) {
    pthread_t thread[4];
    for (long i = 0; i < 4; i++) REQUIRE(pthread_create(&thread[i], NULL, work, (void *)i) == 0);
    for (long i = 0; i < 4; i++) {
        void *result;
        REQUIRE(pthread_join(thread[i], &result) == 0 && result == (void *)(50000 + i));
    }
    REQUIRE(total == 200000 && plain == 20000);
    return 1;
}

static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn;

static void *second(void *arg) {
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        while (turn != 1) pthread_cond_wait(&turn_changed, &lock);
        turn = 0;
        pthread_cond_signal(&turn_changed);
        pthread_mutex_unlock(&lock);
    }
    return arg;
}

static int futexes(void) {
    pthread_t other;
    REQUIRE(pthread_create(&other, NULL, second, NULL) == 0);
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        while (turn != 0) pthread_cond_wait(&turn_changed, &lock);
        turn = 1;
        pthread_cond_signal(&turn_changed);
        pthread_mutex_unlock(&lock);
    }
    REQUIRE(pthread_join(other, NULL) == 0 && turn == 0);
    return 1;
}

static int syscalls(void) {
    struct timespec before, after, pause = {0, 50000000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    REQUIRE(nanosleep(&pause, NULL) == 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    int64_t passed = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    REQUIRE(passed >= 50000000 && passed < 5000000000LL);
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &before); /* through the vDSO */
        REQUIRE(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after) == 0);
        REQUIRE(after.tv_sec > before.tv_sec || (after.tv_sec == before.tv_sec && after.tv_nsec >= before.tv_nsec));
    }
    /* SYSCALL changes RCX, R11 and RAX only. */
    register uint64_t r8 __asm__("r8") = 8, r9 __asm__("r9") = 9, r10 __asm__("r10") = 10;
    uint64_t result = SYS_getppid;
    __asm__ volatile("syscall" : "+a"(result), "+r"(r8), "+r"(r9), "+r"(r10)::"rcx", "r11", "memory");
    REQUIRE(r8 == 8 && r9 == 9 && r10 == 10 && result == (uint64_t)getppid());
    /* The 32-bit way in: INT 0x80, getpid is 20 there. */
    uint64_t pid = 20;
    __asm__ volatile("int $0x80" : "+a"(pid)::"memory");
    REQUIRE(pid == (uint64_t)getpid());
    return 1;
}

int main(void) {
    static const struct {
        const char *name;
        int (*check)(void);
    } checks[] = {{"signals", signals}, {"fork", forks},         {"mmap", maps},
                  {"x87", x87},         {"sse", sse},            {"self-modifying", self_modifying},
                  {"threads", threads}, {"futex", futexes},      {"syscalls", syscalls}};
    int failed = 0;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        int ok = checks[i].check();
        printf("%s %s\n", ok ? "ok" : "FAILED", checks[i].name);
        failed += !ok;
    }
    return failed;
}
