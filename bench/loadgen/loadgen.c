/* The load generator: prepared HTTP/1.1 GETs over keep-alive connections to 127.0.0.1, one thread,
 * epoll. It costs only a few microseconds a request, so that it hardly slows the gateways.
 *
 *     loadgen PORT CONNECTIONS SECONDS RATE SEED SESSIONS SAMPLES
 *
 * SESSIONS is a file of paths, one a line; an empty line ends a session. A connection takes the
 * next session from the file, asks its paths in order, each after the answer to the one before,
 * and then takes another session: as a listener does.
 *
 * RATE 0 is the closed loop: each connection asks again at once. Any other RATE is the open loop:
 * requests are due at the times of a Poisson process of so many a second, whether or not the
 * answers come; a request that is due while all connections are busy waits for the first that is
 * free, and its latency counts from when it was due. So a stall is counted against every request
 * that would have met it ("coordinated omission" is what leaving that out is called). Listeners do
 * not begin all at once: the first session of connection i is left after 1 + i % n of its n paths.
 *
 * SAMPLES is written at the end, 12 bytes a request in the machine's byte order: when it was due
 * (microseconds from the start, uint32), latency (microseconds, uint32), HTTP status (uint16; 0: the
 * connection broke), its number in its session (uint16). One JSON line goes to standard output:
 * the start on CLOCK_MONOTONIC in seconds, when the sessions ran out (microseconds, null if they did
 * not), how many requests were due in all, how many connections were opened.
 *
 * It ends after SECONDS, once open requests are answered (for five seconds at most), or when all
 * sessions have ended.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, GRACE_US = 5000000, TIMER = UINT32_MAX };

struct sample { uint32_t due, latency; uint16_t status, number; };

struct connection {
    int fd, busy, used;     /* used: it has answered at least once since it was opened */
    const char *session;    /* the next path of its session */
    size_t left;            /* paths of its session; 0: it needs another one */
    int began;              /* it has had a session */
    const char *path;       /* what is being asked */
    size_t length;
    uint16_t number;        /* of the next path in its session */
    int64_t due;            /* microseconds since the start */
    size_t have;            /* bytes in the buffer */
    char *buffer;
};

static const char *file_at, *file_end;
static struct connection *connections;
static int epoll_fd, port;
static struct sample *samples;
static size_t sample_count, sample_room;
static struct timespec began;
static int64_t dry_at = -1;
static long opened;
static uint64_t chance;
static int staggered;

static void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (t.tv_sec - began.tv_sec) * 1000000LL + (t.tv_nsec - began.tv_nsec) / 1000;
}

static double uniform(void) { /* xorshift64*, above 0 and up to 1 */
    chance ^= chance >> 12; chance ^= chance << 25; chance ^= chance >> 27;
    return ((chance * 2685821657736338717ULL >> 11) + 1) / 9007199254740992.0;
}

static void open_connection(uint32_t number) {
    struct connection *c = &connections[number];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    for (int tries = 0; connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0; tries++) {
        if (tries == 200) fail("connect");
        usleep(5000);
    }
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) fail("epoll_ctl");
    c->have = 0;
    c->used = 0;
    opened++;
}

/* The next path of the connection's session, or of a new one; 0 when the file is at its end. */
static int next_path(struct connection *c) {
    if (c->left == 0) {
        while (file_at < file_end && *file_at == '\n') file_at++;
        if (file_at >= file_end) {
            if (dry_at < 0) dry_at = now_us();
            return 0;
        }
        c->session = file_at;
        c->number = 0;
        while (file_at < file_end && *file_at != '\n') {
            const char *end = memchr(file_at, '\n', file_end - file_at);
            file_at = end ? end + 1 : file_end;
            c->left++;
        }
        if (staggered && !c->began++) c->left = 1 + (c - connections) % c->left;
    }
    const char *end = memchr(c->session, '\n', file_end - c->session);
    if (end == NULL) end = file_end;
    c->path = c->session;
    c->length = end - c->session;
    c->session = end + 1;
    c->left--;
    return 1;
}

static void record(struct connection *c, int status, int64_t now) {
    if (sample_count == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 1 << 16;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (samples == NULL) fail("realloc");
    }
    int64_t latency = now - c->due;
    samples[sample_count++] = (struct sample){c->due, latency < 0 ? 0 : latency, status, c->number};
    c->number++;
    c->busy = 0;
}

static void broken(uint32_t number, int64_t now);

static void ask(uint32_t number) {
    struct connection *c = &connections[number];
    struct iovec parts[] = {
        {"GET ", 4},
        {(void *)c->path, c->length},
        {" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 30},
    };
    c->busy = 1;
    ssize_t wrote = writev(c->fd, parts, 3);
    if (wrote != (ssize_t)(c->length + 34)) broken(number, now_us());
}

/* A kept-alive connection that the server has closed is opened again and asked once more; one that
 * breaks at its first request is an error. */
static void broken(uint32_t number, int64_t now) {
    struct connection *c = &connections[number];
    int again = c->busy && c->used && c->have == 0;
    close(c->fd);
    if (c->busy && !again) record(c, 0, now);
    open_connection(number);
    if (again) ask(number);
}

/* Reads what has arrived; 1 when the answer is complete. */
static int answered(uint32_t number) {
    struct connection *c = &connections[number];
    ssize_t got = read(c->fd, c->buffer + c->have, BUFFER - 1 - c->have);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) {
        int was_busy = c->busy;
        broken(number, now_us());
        return was_busy && !c->busy;
    }
    c->have += got;
    c->buffer[c->have] = 0;
    char *body = strstr(c->buffer, "\r\n\r\n");
    if (body == NULL) return 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    if (field == NULL || field > body || c->have < 12) {
        fprintf(stderr, "loadgen: an answer without Content-Length:\n%.200s\n", c->buffer);
        exit(1);
    }
    size_t whole = body + 4 - c->buffer + strtoul(field + 17, NULL, 10);
    if (whole > BUFFER - 1) { fprintf(stderr, "loadgen: an answer of %zu bytes\n", whole); exit(1); }
    if (c->have < whole) return 0;
    record(c, atoi(c->buffer + 9), now_us());
    char *closing = strcasestr(c->buffer, "\r\nconnection: close");
    c->have = 0;
    c->used = 1;
    if (closing != NULL && closing < body) {
        close(c->fd);
        open_connection(number);
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: loadgen PORT CONNECTIONS SECONDS RATE SEED SESSIONS SAMPLES\n");
        return 2;
    }
    port = atoi(argv[1]);
    uint32_t count = atoi(argv[2]);
    int64_t until = atof(argv[3]) * 1e6;
    double rate = atof(argv[4]);
    staggered = rate > 0;
    chance = strtoull(argv[5], NULL, 10) * 2654435769ULL + 1;
    int fd = open(argv[6], O_RDONLY);
    struct stat size;
    if (fd < 0 || fstat(fd, &size) < 0) fail(argv[6]);
    if (size.st_size == 0) { fprintf(stderr, "loadgen: %s is empty\n", argv[6]); return 1; }
    file_at = mmap(NULL, size.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (file_at == MAP_FAILED) fail("mmap");
    file_end = file_at + size.st_size;
    FILE *out = fopen(argv[7], "wb");
    if (out == NULL) fail(argv[7]);

    epoll_fd = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    uint32_t *idle = malloc(count * sizeof *idle); /* open loop: a ring of those that are free */
    size_t idle_at = 0, idle_count = 0;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (uint32_t i = 0; i < count; i++) {
        connections[i].buffer = malloc(BUFFER);
        open_connection(i);
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = TIMER};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &event);
    struct itimerspec tick = {{0, 100000000}, {0, 100000000}};

    clock_gettime(CLOCK_MONOTONIC, &began);
    long due_count = 0;
    uint32_t under_way = 0;
    int64_t next_due = 0, armed = -1;
    double exact = 0;
    if (rate > 0) {
        for (uint32_t i = 0; i < count; i++) idle[i] = i;
        idle_count = count;
    } else {
        timerfd_settime(timer, 0, &tick, NULL);
        for (uint32_t i = 0; i < count; i++) {
            if (!next_path(&connections[i])) break;
            connections[i].due = now_us();
            due_count++;
            ask(i);
            if (connections[i].busy) under_way++;
        }
    }
    struct epoll_event events[512];
    for (;;) {
        int64_t now = now_us();
        if (rate > 0) {
            while (idle_count && next_due <= now && next_due < until) {
                uint32_t number = idle[idle_at];
                struct connection *c = &connections[number];
                if (!next_path(c)) { until = next_due; break; }
                idle_at = (idle_at + 1) % count;
                idle_count--;
                c->due = next_due;
                due_count++;
                under_way++;
                ask(number);
                if (!c->busy) { idle[(idle_at + idle_count++) % count] = number; under_way--; }
                exact += -log(uniform()) * 1e6 / rate;
                next_due = exact;
            }
            if (idle_count && next_due < until && next_due != armed) {
                armed = next_due;
                int64_t at = next_due + began.tv_sec * 1000000LL + began.tv_nsec / 1000;
                struct itimerspec once = {{0, 0}, {at / 1000000, at % 1000000 * 1000}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &once, NULL);
            }
        }
        int over = now >= until || (rate <= 0 && dry_at >= 0);
        /* Open loop: what was due and found no connection is still asked, and counted. */
        int owed = rate > 0 && next_due < until;
        if ((over && !under_way && !owed) || now >= until + GRACE_US) break;
        int ready = epoll_wait(epoll_fd, events, 512, over ? 100 : 1000);
        for (int e = 0; e < ready; e++) {
            uint32_t number = events[e].data.u32;
            if (number == TIMER) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0) continue;
                continue;
            }
            struct connection *c = &connections[number];
            if (!answered(number)) continue;
            under_way--;
            if (rate > 0) {
                idle[(idle_at + idle_count++) % count] = number;
                continue;
            }
            int64_t then = now_us();
            while (!c->busy && then < until && next_path(c)) {
                c->due = then;
                due_count++;
                ask(number); /* not busy after it: it broke at once, and is recorded */
            }
            if (c->busy) under_way++;
        }
    }
    int64_t ended = now_us();
    for (uint32_t i = 0; i < count; i++)
        if (connections[i].busy) record(&connections[i], 0, ended); /* never answered */
    if (fwrite(samples, sizeof *samples, sample_count, out) != sample_count || fclose(out)) fail(argv[7]);
    printf("{\"began\": %ld.%06ld, ", (long)began.tv_sec, began.tv_nsec / 1000);
    if (dry_at < 0) printf("\"dry_us\": null, "); else printf("\"dry_us\": %ld, ", (long)dry_at);
    printf("\"due\": %ld, \"opened\": %ld}\n", due_count, opened);
    return 0;
}
