// shortconn PORT CLIENTS SECONDS: clients of a line echo on this machine that connect, send one line, read it back and
// close, over and over. Prints "connections errors".
//
// They go to 127.0.0.1 to 127.0.0.64 in turn: a closed connection keeps its pair of addresses for a minute, and one
// destination has 28,000 of them.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char LINE[] = "hello world, this is a text line\n";
static int port, epoll;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// A connection under way, watched until it can be written to; false when even that failed.
static int begin(int *fd, struct epoll_event *event) {
    static unsigned next;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + next++ % 64);
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int on = 1;
    setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    event->events = EPOLLOUT;
    return (connect(*fd, (void *)&address, sizeof address) == 0 || errno == EINPROGRESS) &&
           epoll_ctl(epoll, EPOLL_CTL_ADD, *fd, event) == 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: shortconn PORT CLIENTS SECONDS\n");
        return 2;
    }
    port = atoi(argv[1]);
    int clients = atoi(argv[2]), fds[clients];
    long size = strlen(LINE), done = 0, errors = 0;
    epoll = epoll_create1(0);
    for (int i = 0; i < clients; i++)
        if (!begin(&fds[i], &(struct epoll_event){.data.u32 = i}))
            errors++;
    for (double end = now() + atof(argv[3]); now() < end && errors < 1000;) {
        struct epoll_event events[512];
        int count = epoll_wait(epoll, events, 512, 100);
        for (int i = 0; i < count; i++) {
            int *fd = &fds[events[i].data.u32];
            char buffer[256];
            if (events[i].events & EPOLLOUT && write(*fd, LINE, size) == size) {
                events[i].events = EPOLLIN;
                epoll_ctl(epoll, EPOLL_CTL_MOD, *fd, &events[i]);
                continue;
            }
            if (events[i].events & EPOLLIN && read(*fd, buffer, sizeof buffer) == size)
                done++;
            else
                errors++;
            close(*fd);
            if (!begin(fd, &events[i]))
                errors++;
        }
    }
    printf("%ld %ld\n", done, errors);
    return 0;
}
