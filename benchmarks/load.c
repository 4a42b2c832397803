/* Load for a line server: many connections in one process, one epoll loop, no work but counting lines.

   load HOST PORT CONNECTIONS DEPTH SECONDS RATE LINE...   each connection sends the LINEs in turn, over and over
   load echo                                               a server that answers each line; prints its port

   DEPTH requests of a connection are under way at once. RATE: LINE sequences begun a second by all connections
   together, and latency then counts from when one was due; 0 is as fast as answers come. `%d` in a LINE stands for the
   last number that the connection was returned. Notifications are read and ignored. Prints JSON. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINES = 8, MAX_LINE = 4096, MAX_DEPTH = 256, HEAD = 64, CHUNK = 1 << 18, MAX_SAMPLES = 1 << 22 };
#define DRAIN_SECONDS 20.0

typedef struct {
    int fd, step, under_way, head_bytes, busy;
    long number;
    double begun[MAX_DEPTH];
    int sent, received; /* modulo MAX_DEPTH */
    char head[HEAD];    /* how the line that is being read begins */
} Connection;

typedef struct {
    long count;
    float *seconds;
} Samples;

static char *lines[MAX_LINES];
static int line_count;
static Samples samples[MAX_LINES];
static long errors, received_bytes;
static char out[CHUNK]; /* for one connection at a time */
static size_t out_bytes;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(int fd, const char *text, size_t length) {
    while (length) {
        ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);
        if (sent < 0) fail("send");
        text += sent, length -= sent;
    }
}

static void flush(Connection *c) {
    send_all(c->fd, out, out_bytes);
    out_bytes = 0;
}

static void send_next(Connection *c, double due) {
    out_bytes += snprintf(out + out_bytes, MAX_LINE, lines[c->step], c->number);
    out[out_bytes++] = '\n';
    c->begun[c->sent] = due;
    c->sent = (c->sent + 1) % MAX_DEPTH;
    c->under_way++;
    c->busy = 1;
    if (out_bytes > CHUNK - MAX_LINE) flush(c);
}

/* A whole line has come; whether the sequence of lines is over. */
static int answered(Connection *c) {
    c->head[c->head_bytes < HEAD ? c->head_bytes : HEAD - 1] = 0;
    if (strncmp(c->head, "{\"jobs_", 7) == 0 || strncmp(c->head, "{\"mach", 6) == 0) return 0;
    const char *value = strchr(c->head, ':');
    if (strncmp(c->head, "{\"return\"", 9) != 0 && errors++ == 0) fprintf(stderr, "answer: %s\n", c->head);
    else if (value && line_count > 1) c->number = strtol(value + 1, NULL, 10);
    Samples *s = &samples[c->step];
    if (s->count < MAX_SAMPLES) s->seconds[s->count] = now() - c->begun[c->received];
    s->count++;
    c->received = (c->received + 1) % MAX_DEPTH;
    c->under_way--;
    c->step = (c->step + 1) % line_count;
    return c->step == 0;
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(double seconds) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    printf("{\"seconds\": %.6f, \"errors\": %ld, \"bytes\": %ld, \"cpu\": %.6f, \"lines\": [", seconds, errors,
           received_bytes, cpu);
    for (int i = 0; i < line_count; i++) {
        Samples *s = &samples[i];
        long kept = s->count < MAX_SAMPLES ? s->count : MAX_SAMPLES;
        qsort(s->seconds, kept, sizeof(float), by_size);
#define PART(p) (kept ? s->seconds[(long)((kept - 1) * (p))] : 0.0f)
        printf("%s{\"count\": %ld, \"p50\": %.6f, \"p99\": %.6f, \"max\": %.6f}", i ? ", " : "", s->count, PART(0.5),
               PART(0.99), PART(1.0));
    }
    printf("]}\n");
}


static int echo(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    if (bind(listener, (void *)&address, size) || listen(listener, 1024)) fail("listen");
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watch(epoll, listener);
    static const char reply[] = "{\"return\":null}\n";
    static char chunk[CHUNK], replies[CHUNK * 2];
    for (struct epoll_event event; epoll_wait(epoll, &event, 1, -1) == 1;) {
        int fd = event.data.fd;
        if (fd == listener) {
            watch(epoll, accept(listener, NULL, NULL));
            continue;
        }
        ssize_t length = recv(fd, chunk, CHUNK / 16, 0);
        if (length <= 0) {
            close(fd);
            continue;
        }
        size_t filled = 0;
        for (ssize_t i = 0; i < length; i++)
            if (chunk[i] == '\n') memcpy(replies + filled, reply, sizeof reply - 1), filled += sizeof reply - 1;
        send_all(fd, replies, filled);
    }
    return 0;
}

/* Read what has come for `c`, and send what is to follow. */
static void serve(Connection *c, int depth, int send_more, double rate) {
    static char chunk[CHUNK];
    ssize_t length = recv(c->fd, chunk, CHUNK, 0);
    if (length <= 0) fail("the server closed a connection");
    received_bytes += length;
    for (char *at = chunk, *stop = chunk + length; at < stop;) {
        char *end = memchr(at, '\n', stop - at);
        int part = (end ? end : stop) - at, room = HEAD - 1 - c->head_bytes;
        if (room > 0) memcpy(c->head + c->head_bytes, at, part < room ? part : room);
        c->head_bytes += part < room ? part : room > 0 ? room : 0;
        if (!end) break;
        at = end + 1;
        int before = c->under_way, over = answered(c);
        c->head_bytes = 0;
        if (c->under_way == before) continue; /* a notification */
        c->busy = !over || c->under_way;
        if (!over || (send_more && rate == 0 && c->under_way < depth)) send_next(c, now());
    }
    flush(c);
}

int main(int count, char **values) {
    if (count == 2 && strcmp(values[1], "echo") == 0) return echo();
    if (count < 8) return 2;
    int connections = atoi(values[3]), depth = atoi(values[4]), epoll = epoll_create1(0);
    double seconds = atof(values[5]), rate = atof(values[6]);
    for (int i = 7; i < count && line_count < MAX_LINES; i++) {
        samples[line_count].seconds = malloc(MAX_SAMPLES * sizeof(float));
        lines[line_count++] = values[i];
    }
    Connection *all = calloc(connections, sizeof *all), **by_fd = calloc(connections + 64, sizeof *by_fd);
    for (int i = 0; i < connections; i++) {
        all[i].fd = connect_to(values[1], atoi(values[2]));
        by_fd[all[i].fd] = &all[i];
        watch(epoll, all[i].fd);
    }
    double start = now(), stop = start + seconds, due = start;
    long under_way = 0;
    if (rate == 0)
        for (int i = 0; i < connections; i++, flush(&all[i - 1]))
            for (int k = 0; k < (line_count == 1 ? depth : 1); k++) send_next(&all[i], now());
    for (int turn = 0;;) {
        double time = now();
        for (int tried = 0; rate > 0 && due <= time && due < stop && tried < connections; tried++) {
            Connection *c = &all[turn++ % connections];
            if (c->busy) continue;
            send_next(c, due);
            flush(c);
            due += 1 / rate;
        }
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, rate > 0 ? 1 : 100);
        for (int i = 0; i < ready; i++) serve(by_fd[events[i].data.fd], depth, time < stop, rate);
        under_way = 0;
        for (int i = 0; time >= stop && i < connections; i++) under_way += all[i].under_way;
        if (time >= stop && (!under_way || time > stop + DRAIN_SECONDS)) break;
    }
    report(now() - start);
    return under_way != 0;
}
