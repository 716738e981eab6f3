/* Shifts the wall clock of a program: LD_PRELOAD this, and name a file in CLOCK_SHIFT_FILE that holds
 * seconds, such as "+86400". The file may be rewritten at any time. Timers that count from now stay
 * as they are.
 *
 * libfaketime does the same and much more, behind one lock. A MySQL server reads the clock from two
 * dozen threads all the time: with libfaketime each statement takes a hundred times as long, and on
 * a busy machine MariaDB stands still for seconds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL /* nanoseconds in a second; as seconds since 1970: a day in 2001 */

static long long last; /* the last shift: a file that is just being rewritten is empty */

static long long shift(void) {
    const char *name = getenv("CLOCK_SHIFT_FILE");
    char text[64];
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        if (length > 1 && text[length - 1] == '\n') {
            text[length] = 0;
            __atomic_store_n(&last, (long long)(strtod(text, NULL) * 1e9), __ATOMIC_RELAXED);
        }
    }
    return __atomic_load_n(&last, __ATOMIC_RELAXED);
}

static void move(struct timespec *at, long long by) {
    long long sum = at->tv_sec * BILLION + at->tv_nsec + by;
    at->tv_sec = sum / BILLION;
    at->tv_nsec = sum % BILLION;
}

typedef int read_clock(clockid_t, struct timespec *);
static read_clock *system_clock; /* faster than syscall(): it makes no system call */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = system_clock ? system_clock(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) move(now, shift());
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (now) *now = at.tv_sec;
    return at.tv_sec;
}

/* The caller's deadline is on the shifted clock; the system waits by its own clock. */

typedef int timed_wait(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static timed_wait *system_wait;

static __attribute__((constructor)) void find(void) {
    system_clock = (read_clock *)dlsym(RTLD_NEXT, "clock_gettime");
    /* x86-64 has two versions of it; dlsym may find the old one, for another kind of condition. */
    system_wait = (timed_wait *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!system_wait) system_wait = (timed_wait *)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *until) {
    struct timespec at = *until;
    /* A small number is a time on the monotonic clock, which starts with the machine; a huge one
     * means for ever. Neither is shifted. */
    if (at.tv_sec > BILLION && at.tv_sec < 8 * BILLION) move(&at, -shift());
    return system_wait(condition, mutex, &at);
}
