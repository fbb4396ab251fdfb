/* What root does to a file. Each says as system calls do how it went: negative, and errno. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static long closed(int fd, long result) {
  int kept = errno;
  int failed = close(fd);
  if (result < 0) errno = kept;
  return failed < 0 ? -1 : result;
}

static long put(const char *path, int flags) {
  int fd = open(path, O_WRONLY | flags, 0644);
  if (fd < 0) return -1;
  long written = write(fd, "root was here", 13);
  return closed(fd, fsync(fd) < 0 ? -1 : written);
}

static long get(const char *path) {
  char byte;
  int fd = open(path, O_RDONLY);
  return fd < 0 ? -1 : closed(fd, read(fd, &byte, 1));
}
