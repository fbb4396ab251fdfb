/** A wall clock that a test moves: a library, loaded first, that adds what a file says to CLOCK_REALTIME and no other. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

const SOURCE = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long long offset(void) {
  char text[32] = {0};
  int fd = open(OFFSET, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  return got > 0 ? atoll(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = (int)syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += offset();
  return result;
}
int gettimeofday(struct timeval *restrict value, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  value->tv_sec = now.tv_sec;
  value->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
`

export interface Clock {
  /** For LD_PRELOAD. */
  readonly library: string
  /** Moves the wall clock of whoever loaded it, at once. */
  jump(seconds: number): void
}

/** Makes one in `dir`, which the user of the clock can read. */
export function makeClock(dir: string): Clock {
  const [offset, source, library] = ['offset', 'clock.c', 'clock.so'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ]
  writeFileSync(offset, '0', { mode: 0o644 })
  writeFileSync(source, SOURCE)
  execFileSync('cc', ['-O1', '-shared', '-fPIC', `-DOFFSET="${offset}"`, '-o', library, source], {
    stdio: 'pipe',
  })
  return { library, jump: (seconds) => writeFileSync(offset, String(seconds)) }
}
