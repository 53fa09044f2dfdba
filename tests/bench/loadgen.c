// loadgen PORT KIND CONNECTIONS DEPTH SECONDS: clients on this machine, each with DEPTH messages in flight, always.
// DEPTH 0: they only read.
// KIND: text (a line that is echoed), ws (a masked text frame that is echoed), http (a GET of a client that keeps alive).
// Prints "messages errors": answers that came, connections that ended before the time was over.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD "hello world, this is a text line"

struct kind {
    const char *name, *greeting, *message;
    long answer; // bytes; 0: whatever the first one has
};

static char frame[6 + sizeof PAYLOAD - 1 + 1];
static struct kind kinds[] = {
    {"text", "", PAYLOAD "\n", sizeof PAYLOAD},
    {"ws",
     "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
     "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\nSec-WebSocket-Version: 13\r\n\r\n",
     frame, 2 + sizeof PAYLOAD - 1},
    {"http", "",
     "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n"
     "Connection: keep-alive\r\n\r\n",
     0},
};

struct client {
    int fd;
    long missing; // bytes of this round's answers that have not come
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

// Up to the end of a head; what follows it stays unread.
static long read_head(int fd, char *head, long size) {
    for (long length = 0; length < size; length++) {
        if (read(fd, head + length, 1) != 1)
            fail("read");
        if (length >= 3 && !memcmp(head + length - 3, "\r\n\r\n", 4)) {
            head[length + 1] = 0;
            return length + 1;
        }
    }
    fail("no end of the head");
    return 0;
}

static int connect_to(int port, const struct kind *kind) {
    char head[4096];
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (connect(fd, (void *)&address, sizeof address))
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (*kind->greeting) {
        if (write(fd, kind->greeting, strlen(kind->greeting)) < 0)
            fail("write");
        read_head(fd, head, sizeof head - 1);
    }
    return fd;
}

// The first answer says how long all are.
static long measure(int port, const struct kind *kind) {
    char head[4096], body[4096];
    int fd = connect_to(port, kind);
    if (write(fd, kind->message, strlen(kind->message)) < 0)
        fail("write");
    long length = read_head(fd, head, sizeof head - 1);
    char *field = strcasestr(head, "content-length:");
    long rest = field ? atol(field + strlen("content-length:")) : 0;
    for (long got = 0; got < rest;) {
        long count = read(fd, body, rest - got < (long)sizeof body ? rest - got : (long)sizeof body);
        if (count <= 0)
            fail("read");
        got += count;
    }
    close(fd);
    return length + rest;
}

int main(int argc, char **argv) {
    struct kind *kind = NULL;
    for (int i = 0; argc == 6 && i < 3; i++)
        if (!strcmp(argv[2], kinds[i].name))
            kind = &kinds[i];
    if (!kind) {
        fprintf(stderr, "usage: loadgen PORT text|ws|http CONNECTIONS DEPTH SECONDS\n");
        return 2;
    }
    static const char mask[] = {0x11, 0x22, 0x33, 0x44};
    frame[0] = (char)0x81, frame[1] = (char)(0x80 | (sizeof PAYLOAD - 1));
    memcpy(frame + 2, mask, 4);
    for (unsigned i = 0; i < sizeof PAYLOAD - 1; i++)
        frame[6 + i] = PAYLOAD[i] ^ mask[i % 4];

    int port = atoi(argv[1]), connections = atoi(argv[3]), depth = atoi(argv[4]);
    long answer = kind->answer ? kind->answer : measure(port, kind);
    long size = strlen(kind->message), round = depth * size, expected = depth * answer, messages = 0, errors = 0;
    char *burst = malloc(round), buffer[1 << 16];
    for (int i = 0; i < depth; i++)
        memcpy(burst + i * size, kind->message, size);

    int epoll = epoll_create1(0);
    struct client *clients = calloc(connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        clients[i] = (struct client){connect_to(port, kind), expected};
        fcntl(clients[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    double end = now() + atof(argv[5]);
    for (int i = 0; i < connections; i++)
        if (write(clients[i].fd, burst, round) != round)
            errors++;
    while (now() < end) {
        struct epoll_event events[512];
        int count = epoll_wait(epoll, events, 512, 100);
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            long got = read(client->fd, buffer, sizeof buffer);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0) {
                errors++;
                epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
                continue;
            }
            client->missing -= got;
            if (client->missing > 0)
                continue;
            client->missing += expected;
            messages += depth;
            if (round && write(client->fd, burst, round) != round)
                errors++;
        }
    }
    printf("%ld %ld\n", messages, errors);
    return 0;
}
