// loadgen PORT CONNECTIONS DEPTH SECONDS: clients of a line echo on this machine, each with DEPTH lines in flight, always.
// Prints "messages errors": lines that came back, connections that ended before the time was over.
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

static const char LINE[] = "hello world, this is a text line\n";

struct client {
    int fd;
    long missing; // bytes of this round's answers that have not come
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int connect_to(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (connect(fd, (void *)&address, sizeof address)) {
        perror("loadgen: connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: loadgen PORT CONNECTIONS DEPTH SECONDS\n");
        return 2;
    }
    int port = atoi(argv[1]), connections = atoi(argv[2]), depth = atoi(argv[3]);
    long round = depth * (long)strlen(LINE), messages = 0, errors = 0;
    char *burst = malloc(round), buffer[1 << 16];
    for (int i = 0; i < depth; i++)
        memcpy(burst + i * strlen(LINE), LINE, strlen(LINE));

    int epoll = epoll_create1(0);
    struct client *clients = calloc(connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        clients[i] = (struct client){connect_to(port), round};
        epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    double end = now() + atof(argv[4]);
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
            client->missing = round;
            messages += depth;
            if (write(client->fd, burst, round) != round)
                errors++;
        }
    }
    printf("%ld %ld\n", messages, errors);
    return 0;
}
