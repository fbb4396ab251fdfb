/* Stands in QEMU's place in its cell and plays a guest that lies, or a QEMU that was taken over. Its part is the file
 * that is the kernel elsewhere, a word and its text a line; descriptors 3 and 4 are ambit.control and ambit.io,
 * 7 is the control channel of the TPM, 8 the monitor where it goes on from a snapshot. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef PART
#define PART "/.ambit/machine/kernel"
#endif

static char said[4096];

static void put(int fd, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t sent = write(fd, at, length);
    if (sent < 0) return;
    at += sent, length -= sent;
  }
}

/* One line of what the host says. */
static void hear(void) {
  char byte;
  while (read(3, &byte, 1) == 1 && byte != '\n');
}

/* At once, as QEMU writes a request. */
static void hex(int fd, const char *text) {
  unsigned char all[64];
  size_t length = 0;
  for (unsigned byte; length < sizeof all && sscanf(text, "%2x", &byte) == 1; text += 2) all[length++] = byte;
  put(fd, all, length);
}

static int dial(int family, void *address, socklen_t length) {
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  int done = connect(fd, address, length);
  if (done < 0 && errno == EINPROGRESS) {
    usleep(300000);
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    /* Still on its way: nobody answered. */
    struct sockaddr_storage peer;
    socklen_t room = sizeof peer;
    errno = error ? error : getpeername(fd, (void *)&peer, &room) == 0 ? 0 : ETIMEDOUT;
    done = errno == 0 ? 0 : -1;
  }
  int kept = errno;
  close(fd);
  errno = kept;
  return done;
}

static int dial_port(const char *host, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &to.sin_addr);
  return dial(AF_INET, &to, sizeof to);
}

static int dial_path(const char *path) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  memcpy(to.sun_path, path, strlen(path));
  if (path[0] == '@') to.sun_path[0] = 0;
  return dial(AF_UNIX, &to, offsetof(struct sockaddr_un, sun_path) + strlen(path));
}

/* A register of the TPM, by QEMU's way to it. */
static void print_register(int data, int number, char *to) {
  unsigned char ask[20] = {0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3}, answer[62] = {0};
  ask[17 + number / 8] = 1 << number % 8;
  put(data, ask, sizeof ask);
  for (size_t got = 0; got < sizeof answer;) {
    ssize_t more = read(data, answer + got, sizeof answer - got);
    if (more <= 0) break;
    got += more;
  }
  for (int at = 30; at < 62; at++) to += sprintf(to, "%02x", answer[at]);
}

/* What an honest guest says of its TPM, when the cell stands. */
static void ready(void) {
  int ends[2], numbers[] = {8, 9, 12, 15};
  char values[4][65] = {{0}}, line[600];
  unsigned char ask[4] = {0, 0, 0, 16}, done[4];
  char room[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec part = {ask, sizeof ask};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) return;
  memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
  if (sendmsg(7, &message, 0) != 4 || read(7, done, 4) != 4) return;
  close(ends[1]);
  for (int at = 0; at < 4; at++) print_register(ends[0], numbers[at], values[at]);
  close(ends[0]);
  int length = snprintf(line, sizeof line,
                        "{\"ev\":\"ready\",\"controls\":[],\"registers\":{\"8\":\"%s\",\"9\":\"%s\",\"12\":\"%s\",\"15\":\"%s\"}}\n",
                        values[0], values[1], values[2], values[3]);
  put(3, line, length);
}

/* Descriptors beyond those that QEMU is given, 0 to 7, and the part that is being read. */
static int spare_descriptors(void) {
  DIR *all = opendir("/proc/self/fd");
  int found = 0;
  for (struct dirent *entry; all && (entry = readdir(all));)
    if (atoi(entry->d_name) > 8 && atoi(entry->d_name) != dirfd(all)) found++;
  if (all) closedir(all);
  errno = 0;
  return found == 0 ? -1 : found;
}

static int others_visible(void) {
  DIR *all = opendir("/proc");
  int found = 0;
  for (struct dirent *entry; all && (entry = readdir(all));)
    if (atoi(entry->d_name) > 2) found++;
  if (all) closedir(all);
  errno = 0;
  return found == 0 ? -1 : found;
}

static int attempt(const char *what, const char *with) {
  if (!strcmp(what, "read")) return open(with, O_RDONLY);
  if (!strcmp(what, "write")) return open(with, O_WRONLY);
  if (!strcmp(what, "create")) return open(with, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!strcmp(what, "path")) return dial_path(with);
  if (!strcmp(what, "port")) {
    char host[64] = "";
    int port = 0;
    sscanf(with, "%63[^:]:%d", host, &port);
    return dial_port(host, port);
  }
  if (!strcmp(what, "vsock")) {
    struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 22};
    return dial(AF_VSOCK, &to, sizeof to);
  }
  if (!strcmp(what, "packet")) return socket(AF_PACKET, SOCK_RAW, 0);
  if (!strcmp(what, "netlink")) return socket(AF_NETLINK, SOCK_RAW, 12);
  if (!strcmp(what, "ptrace")) return ptrace(PTRACE_ATTACH, 1, 0, 0);
  if (!strcmp(what, "mount")) return mount("none", "/tmp", "tmpfs", 0, 0);
  if (!strcmp(what, "unshare")) return syscall(SYS_unshare, 0x10000000);
  if (!strcmp(what, "kill")) return kill(atoi(with), SIGKILL);
  if (!strcmp(what, "descriptors")) return spare_descriptors();
  if (!strcmp(what, "processes")) return others_visible();
  if (!strcmp(what, "umask")) return umask(0) == 077 ? -1 : 0;
  if (!strcmp(what, "exec")) {
    pid_t pid = fork();
    if (pid == 0) {
      char *words[] = {"qemu", "child", 0};
      execv(with, words);
      _exit(1);
    }
    return pid;
  }
  errno = EINVAL;
  return -1;
}

static void try_it(char *rest) {
  char *with = strchr(rest, ' ');
  if (with) *with++ = 0;
  errno = 0;
  int done = attempt(rest, with ? with : "");
  size_t at = strlen(said);
  snprintf(said + at, sizeof said - at, "%s%s%s=%s;", rest, with ? " " : "", with ? with : "",
           done >= 0 ? "ok" : errno ? strerrorname_np(errno) : "none");
}

/* Does what its monitor is told, says yes to it, and tells what it was until nobody holds the other end. */
static void obey_monitor(void) {
  struct timeval patience = {.tv_sec = 5};
  setsockopt(8, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  char line[1000], name[100];
  size_t length = 0;
  ssize_t got;
  while ((got = read(8, line + length, 1)) == 1 && length < sizeof line - 1) {
    if (line[length++] != '\n') continue;
    line[length] = 0;
    length = 0;
    char *order = strstr(line, "\"execute\":\"");
    if (order && sscanf(order + 11, "%99[a-z_-]", name) == 1) sprintf(said + strlen(said), "%s;", name);
    put(8, "{\"return\":{}}\n", 14);
  }
  strcat(said, got == 0 ? "closed;" : "open;");
}

static void act(char *word, char *rest) {
  if (!strcmp(word, "say")) put(3, rest, strlen(rest)), put(3, "\n", 1);
  if (!strcmp(word, "half")) put(3, rest, strlen(rest));
  if (!strcmp(word, "hear")) hear();
  if (!strcmp(word, "ready")) ready();
  if (!strcmp(word, "monitor")) obey_monitor();
  if (!strcmp(word, "io")) hex(4, rest);
  if (!strcmp(word, "tpm")) hex(7, rest);
  if (!strcmp(word, "wait")) usleep(atoi(rest) * 1000);
  if (!strcmp(word, "exit")) _exit(atoi(rest));
  if (!strcmp(word, "die")) raise(atoi(rest));
  if (!strcmp(word, "stay")) for (;;) pause();
  if (!strcmp(word, "try")) try_it(rest);
  if (!strcmp(word, "report")) {
    /* Each in a message of its own: a person sees 300 characters of one. */
    printf("%s\n", said);
    for (char *at = strtok(said, ";"); at; at = strtok(0, ";")) {
      char line[600];
      int length = snprintf(line, sizeof line,
                            "{\"ev\":\"launch\",\"n\":1,\"fact\":{\"k\":\"process.launch\",\"pid\":2,\"ppid\":1,\"path\":\"%s\","
                            "\"digest\":null,\"argv\":[],\"cwd\":\"/\",\"truncated\":false}}\n",
                            at);
      put(3, line, length);
    }
  }
  if (!strcmp(word, "flood")) {
    int times = atoi(rest);
    char *text = strchr(rest, ' ') + 1;
    while (times-- > 0) put(3, text, strlen(text)), put(3, "\n", 1);
  }
  if (!strcmp(word, "flood-io")) {
    static unsigned char frame[5 + 65536] = {1, 0, 0, 1, 0};
    memset(frame + 5, 'x', 65536);
    for (int times = atoi(rest); times > 0; times--) put(4, frame, sizeof frame);
  }
}

int main(void) {
  static char line[1 << 20];
  signal(SIGPIPE, SIG_IGN);
  /* All of it at once: a machine that runs has no kernel to load any more. */
  static char play[4 << 20];
  FILE *file = fopen(PART, "r");
  size_t length = file ? fread(play, 1, sizeof play, file) : 0;
  FILE *part = length ? fmemopen(play, length, "r") : NULL;
  while (part && fgets(line, sizeof line, part)) {
    line[strcspn(line, "\n")] = 0;
    char *rest = strchr(line, ' ');
    if (rest) *rest++ = 0;
    act(line, rest ? rest : "");
  }
  return 0;
}
