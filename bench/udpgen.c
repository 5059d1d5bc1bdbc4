/* UDP load and latency for bench/throughput: iperf3 tops out near 190 kpps, this does not.
 *
 *   udpgen sink PORT                      receive a flood, print {"received", "bytes"} when it ends
 *   udpgen flood ADDR PORT SECONDS SIZE   send as fast as sendmmsg goes, print {"sent", "seconds"}
 *   udpgen echo PORT                      answer every datagram until killed
 *   udpgen ping ADDR PORT COUNT           one datagram every 5..15 ms, print round trip times
 *
 * Datagram: | sequence u64 | sent, ns on the monotonic clock u64 | zeros to SIZE |, host endian:
 * both ends are one machine.  Sequence ~0 ends a flood.  IPv4 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, LARGEST = 2048 };
static const uint64_t END = ~0ull;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "udpgen: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int open_socket(const char *address, const char *port, int listening) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  int room = 4 << 20;
  if (s < 0) die("socket");
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) die("address");
  setsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  setsockopt(s, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  if (listening ? bind(s, (void *)&to, sizeof to) : connect(s, (void *)&to, sizeof to)) die("bind or connect");
  return s;
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

static char slab[BATCH][LARGEST];
static struct iovec parts[BATCH];
static struct mmsghdr batch[BATCH];

static void lay_out(size_t size) {
  for (int i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec){slab[i], size};
    batch[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
  }
}

static int sink(const char *port) {
  int s = open_socket("0.0.0.0", port, 1);
  uint64_t received = 0, bytes = 0, first = 0, last = 0;
  int over = 0;
  struct timeval quiet = {.tv_sec = 5};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet);
  lay_out(LARGEST);
  ready();
  while (!over) {
    int n = recvmmsg(s, batch, BATCH, MSG_WAITFORONE, NULL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break; /* quiet for too long: every end mark was lost */
    uint64_t at = now_ns();
    for (int i = 0; i < n; i++) {
      uint64_t sequence;
      if (batch[i].msg_len < 16) continue;
      memcpy(&sequence, slab[i], 8);
      if (sequence == END) {
        over = 1;
        continue;
      }
      if (!received) first = at;
      last = at;
      received++;
      bytes += batch[i].msg_len;
    }
  }
  printf("{\"received\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n", (unsigned long long)received,
         (unsigned long long)bytes, (double)(last - first) / 1e9);
  return 0;
}

static int flood(const char *address, const char *port, double seconds, size_t size) {
  int s = open_socket(address, port, 0);
  uint64_t sequence = 0, start = now_ns(), now = start, end = start + (uint64_t)(seconds * 1e9);
  if (size < 16 || size > LARGEST) die("size");
  lay_out(size);
  while (now < end) {
    for (int i = 0; i < BATCH; i++) {
      uint64_t number = sequence + (uint64_t)i;
      memcpy(slab[i], &number, 8);
      memcpy(slab[i] + 8, &now, 8);
    }
    int n = sendmmsg(s, batch, BATCH, 0);
    if (n > 0) sequence += (uint64_t)n;
    else if (errno == ENOBUFS || errno == EAGAIN) sched_yield();
    else if (errno != EINTR && errno != ECONNREFUSED) die("sendmmsg");
    now = now_ns();
  }
  printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sequence, (double)(now - start) / 1e9);
  memcpy(slab[0], &END, 8);
  for (int i = 0; i < 20; i++) { /* spaced, so that one at least outlives the full queues */
    usleep(20000);
    if (send(s, slab[0], size, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS) die("send");
  }
  return 0;
}

static _Noreturn void echo(const char *port) {
  int s = open_socket("0.0.0.0", port, 1);
  struct sockaddr_in from;
  ready();
  for (;;) {
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(s, slab[0], LARGEST, 0, (void *)&from, &length);
    if (n < 0 && errno != EINTR) die("recvfrom");
    if (n >= 0 && sendto(s, slab[0], (size_t)n, 0, (void *)&from, length) < 0) die("sendto");
  }
}

static int ping(const char *address, const char *port, int count) {
  int s = open_socket(address, port, 0), lost = 0;
  unsigned seed = 1;
  printf("{\"rtt_ns\": [");
  for (int i = 0, printed = 0; i < count; i++) {
    uint64_t number = (uint64_t)i, sent, got = END;
    struct pollfd wait = {.fd = s, .events = POLLIN};
    usleep(5000 + (useconds_t)(rand_r(&seed) % 10000)); /* never in step with a timer */
    sent = now_ns();
    memcpy(slab[0], &number, 8);
    memcpy(slab[0] + 8, &sent, 8);
    if (send(s, slab[0], 64, 0) < 0) die("send");
    while (got != number && poll(&wait, 1, 1000) > 0)
      if (recv(s, slab[0], LARGEST, 0) >= 8) memcpy(&got, slab[0], 8);
    if (got != number) lost++;
    else printf("%s%llu", printed++ ? "," : "", (unsigned long long)(now_ns() - sent));
  }
  printf("], \"lost\": %d}\n", lost);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "sink")) return sink(argv[2]);
  if (argc == 6 && !strcmp(argv[1], "flood")) return flood(argv[2], argv[3], atof(argv[4]), (size_t)atoi(argv[5]));
  if (argc == 3 && !strcmp(argv[1], "echo")) echo(argv[2]);
  if (argc == 5 && !strcmp(argv[1], "ping")) return ping(argv[2], argv[3], atoi(argv[4]));
  fprintf(stderr, "usage: udpgen sink PORT | flood ADDR PORT SECONDS SIZE | echo PORT | ping ADDR PORT COUNT\n");
  return 2;
}
