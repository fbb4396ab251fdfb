/* System-call probes. `probe NAME [ARG]` makes one attempt in a child process and prints one word: `ok`, `ok:VALUE`,
 * an errno name, or the signal that ended the child. Arguments are chosen so that the kernel, if it is asked, answers
 * something other than the filter does (EBADF, EFAULT, EINVAL); the caller runs the same probe outside as control.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTHING 0L
#define NEWUSER 0x10000000UL
#define X32_BIT 0x40000000L

static const char *argument;
static char **arguments;

static long unshare_user(void) { return syscall(SYS_unshare, NEWUSER); }
static long unshare_user_high(void) { return syscall(SYS_unshare, NEWUSER | 1UL << 40); }
static long unshare_mount(void) { return syscall(SYS_unshare, 0x00020000UL); }

static long clone_user(void) {
  long pid = syscall(SYS_clone, NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid == 0) _exit(0);
  if (pid > 0) waitpid((pid_t)pid, NULL, 0);
  return pid < 0 ? -1 : 0;
}

static long clone3_null(void) { return syscall(SYS_clone3, NULL, 0L); }
static long setns_bad(void) { return syscall(SYS_setns, -1L, 0L); }
static long mount_null(void) { return syscall(SYS_mount, NULL, NULL, NULL, 0L, NULL); }
static long open_tree_bad(void) { return syscall(428L, -1L, "", 0L); }
static long fsopen_null(void) { return syscall(430L, NULL, 0L); }
static long io_uring_setup(void) { return syscall(425L, 0L, NULL); }
static long io_uring_enter(void) { return syscall(426L, -1L, 0L, 0L, 0L, NULL, 0L); }
static long io_uring_register(void) { return syscall(427L, -1L, 0L, NULL, 0L); }
static long tiocsti_bad_fd(void) { return syscall(SYS_ioctl, -1L, 0x5412L, NULL); }
static long tiocsti_high_bits(void) { return syscall(SYS_ioctl, -1L, 0x5412L | 1L << 40, NULL); }
static long tioclinux_bad_fd(void) { return syscall(SYS_ioctl, -1L, 0x541CL, NULL); }
static long tiocnotty_bad_fd(void) { return syscall(SYS_ioctl, -1L, 0x5422L, NULL); }
static long keyctl_bad(void) { return syscall(SYS_keyctl, 0L, -3L, 0L); }
static long add_key_null(void) { return syscall(SYS_add_key, NULL, NULL, NULL, 0L, 0L); }
static long ptrace_none(void) { return syscall(SYS_ptrace, PTRACE_ATTACH, 0x7ffffffeL, NULL, NULL); }
static long bpf_bad(void) { return syscall(SYS_bpf, 0L, NULL, 0L); }
static long userfaultfd_bad(void) { return syscall(SYS_userfaultfd, 0xdeadL); }
static long handle_bad(void) { return syscall(SYS_open_by_handle_at, -1L, NULL, 0L); }
static long socket_vsock(void) { return socket(40, SOCK_STREAM, 0); }
static long socket_alg(void) { return socket(38, SOCK_SEQPACKET, 0); }
static long socket_packet(void) { return socket(17, SOCK_RAW, 0); }
static long socket_inet(void) { return socket(2, SOCK_STREAM, 0); }
static long chmod_null(void) { return syscall(SYS_chmod, NULL, 0L); }
static long listen_bad(void) { return syscall(SYS_listen, -1L, 0L); }
static long prctl_null(void) { return syscall(SYS_prctl, PR_GET_PDEATHSIG, NULL); }

static long no_new_privs(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }

/* How many capabilities are in the ambient set. */
static long ambient_set(void) {
  long count = 0;
  for (long capability = 0; capability <= 40; capability++) {
    long set = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0);
    if (set < 0) return -1;
    count += set;
  }
  return count;
}

/* Really pushes a byte into the terminal on fd 0. */
static long tiocsti_terminal(void) { return ioctl(0, TIOCSTI, "X"); }

static long x32_getpid(void) { return syscall(X32_BIT | SYS_getpid) > 0 ? 0 : -1; }

#if defined(__x86_64__)
/* The 32-bit entry from 64-bit code: r8-r15 are not kept on every kernel. */
static long int80(long nr, long a, long b) {
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(nr), "b"(a), "c"(b)
                   : "r8", "r9", "r10", "r11", "memory");
  if (result < 0 && result > -4096) { errno = (int)-result; return -1; }
  return result;
}
/* A kernel that takes the 32-bit entry for its own reads the number as one of 64-bit calls: 272 is unshare there. */
static long ia32_as_64(void) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(272L), "b"(0L), "c"(0L), "D"(NEWUSER) : "r8", "r9", "r10", "r11", "memory");
  if (result < 0 && result > -4096) { errno = (int)-result; return -1; }
  return result;
}
static long ia32_getpid(void) { return int80(20, 0, 0) > 0 ? 0 : -1; }
static long ia32_socketcall(void) {
  unsigned *args = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  if (args == MAP_FAILED) return -1;
  args[0] = 2; args[1] = 1; args[2] = 0; /* socket(AF_INET, SOCK_STREAM, 0) */
  return int80(102, 1, (long)args);
}
#else
static long ia32_as_64(void) { errno = ENOTSUP; return -1; }
static long ia32_getpid(void) { errno = ENOTSUP; return -1; }
static long ia32_socketcall(void) { errno = ENOTSUP; return -1; }
#endif

static long write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_TRUNC);
  if (fd < 0) return -1;
  long written = write(fd, text, strlen(text));
  close(fd);
  return written < 0 ? -1 : 0;
}

/* The whole chain of C-11 up to the point where it could replace `argument`: namespace, mappings, mount, write. */
static long namespace_chain(void) {
  int directory = open("/", O_RDONLY | O_DIRECTORY);
  if (directory < 0) return -1;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return -1;
  if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL) < 0) return -1;
  int fd = openat(directory, argument + 1, O_WRONLY | O_TRUNC);
  if (fd < 0) return -1;
  return write(fd, "replaced", 8) == 8 ? 0 : -1;
}

/* A memory hog: touches `argument` MiB and then waits, so that a watchdog can see it. */
static long allocate(void) {
  size_t size = (size_t)atol(argument) << 20;
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return -1;
  for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
  sleep(10);
  return 0;
}

/* Forks until it is refused, at most `argument` times; says how many children it got. */
static long fork_many(void) {
  long wanted = atol(argument), made = 0;
  for (; made < wanted; made++) {
    pid_t pid = fork();
    if (pid < 0) break;
    if (pid == 0) { pause(); _exit(0); }
  }
  int why = made < wanted ? errno : 0;
  sleep(1);
  printf("%ld ", made);
  fflush(stdout);
  signal(SIGTERM, SIG_IGN);
  kill(0, SIGTERM);
  errno = why;
  return why ? -1 : 0;
}

static long write_argument(void) { return write_file(argument, "probe"); }

/* Bytes from an inherited descriptor. */
static long read_fd(void) {
  char buffer[64];
  return read(atoi(argument), buffer, sizeof buffer);
}

/* Any call: its number and up to six numeric arguments. The calls that make descriptors close with the child. */
static long any_call(void) {
  long value[7] = {0};
  for (int at = 0; at < 7 && arguments[at]; at++) value[at] = (long)strtoull(arguments[at], NULL, 0);
  return syscall(value[0], value[1], value[2], value[3], value[4], value[5], value[6]);
}

/* A copy of the program in `argument` runs from memory: there is no path that a rule could name. */
static long run_from_memory(void) {
  int from = open(argument, O_RDONLY | O_CLOEXEC);
  int memory = memfd_create("copy", 0);
  if (from < 0 || memory < 0) return -1;
  char buffer[65536];
  for (ssize_t got; (got = read(from, buffer, sizeof buffer)) > 0;)
    if (write(memory, buffer, (size_t)got) != got) return -1;
  pid_t pid = fork();
  if (pid == 0) {
    char *argv[] = {"copy", "unshare-user", NULL};
    fexecve(memory, argv, environ);
    _exit(1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return status == 0 ? 0 : -1;
}

/* Every call of `arguments` with zeros, each in a child of its own, with what came of it. What a call breaks, ends or
 * starves is the child's; one that does not come back is ended. */
static long every_call(void) {
  for (int at = 0; arguments[at]; at++) {
    long number = atol(arguments[at]);
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return -1;
    pid_t pid = fork();
    if (pid < 0) return -1;
    if (pid == 0) {
      /* Descriptor 0 is the one that zeros name: read, written, and its mode and owner changed. */
      int mine = memfd_create("mine", MFD_CLOEXEC);
      for (int fd = 0; fd < 3; fd++)
        if (mine < 0 || dup2(mine, fd) < 0) _exit(1);
      setsid();
      struct itimerval soon = {{0, 0}, {0, 200000}};
      setitimer(ITIMER_REAL, &soon, NULL);
      errno = 0;
      long result = syscall(number, 0, 0, 0, 0, 0, 0);
      int why = result < 0 ? errno : 0;
      if (write(report[1], &why, sizeof why) < 0) _exit(1);
      _exit(0);
    }
    close(report[1]);
    int why = -1;
    ssize_t got = read(report[0], &why, sizeof why);
    close(report[0]);
    waitpid(pid, NULL, 0);
    printf("%ld %s\n", number, got != sizeof why ? "NOTHING" : why ? strerrorname_np(why) ? strerrorname_np(why) : "UNKNOWN" : "ok");
  }
  fflush(stdout);
  return 0;
}

/* `argument` processes that wake all others without end, and count in the file given after it for as long as they run. */
static long keep_awake(void) {
  int file = open(arguments[1], O_RDWR | O_CREAT, 0644);
  if (file < 0 || ftruncate(file, 4096) < 0) return -1;
  volatile unsigned *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (count == MAP_FAILED) return -1;
  for (long left = atol(argument); left > 1; left--)
    if (fork() == 0) break;
  for (;;) {
    kill(-1, SIGCONT);
    __sync_fetch_and_add(count, 1);
    char text[16];
    int length = snprintf(text, sizeof text, "%u", *count);
    if (pwrite(file, text, (size_t)length, 0) < 0) return -1;
  }
}

static const struct { const char *name; long (*attempt)(void); } PROBES[] = {
  {"call", any_call}, {"run-from-memory", run_from_memory},
  {"unshare-user", unshare_user}, {"unshare-user-high", unshare_user_high}, {"unshare-mount", unshare_mount},
  {"clone-user", clone_user}, {"clone3", clone3_null}, {"setns", setns_bad}, {"mount", mount_null},
  {"open-tree", open_tree_bad}, {"fsopen", fsopen_null}, {"io-uring-setup", io_uring_setup},
  {"io-uring-enter", io_uring_enter}, {"io-uring-register", io_uring_register},
  {"tiocsti", tiocsti_bad_fd}, {"tiocsti-high", tiocsti_high_bits}, {"tiocsti-terminal", tiocsti_terminal},
  {"tioclinux", tioclinux_bad_fd}, {"tiocnotty", tiocnotty_bad_fd}, {"keyctl", keyctl_bad},
  {"add-key", add_key_null}, {"ptrace", ptrace_none}, {"bpf", bpf_bad}, {"userfaultfd", userfaultfd_bad},
  {"open-by-handle", handle_bad}, {"socket-vsock", socket_vsock}, {"socket-alg", socket_alg},
  {"socket-packet", socket_packet}, {"socket-inet", socket_inet}, {"chmod", chmod_null}, {"listen", listen_bad},
  {"prctl", prctl_null}, {"x32-getpid", x32_getpid}, {"ia32-getpid", ia32_getpid},
  {"ia32-socketcall", ia32_socketcall}, {"ia32-as-64", ia32_as_64}, {"no-new-privs", no_new_privs},
  {"ambient-set", ambient_set}, {"namespace-chain", namespace_chain}, {"allocate", allocate},
  {"every-call", every_call}, {"keep-awake", keep_awake}, {"fork-many", fork_many}, {"write", write_argument}, {"read-fd", read_fd},
};

/* The child reports through shared memory, so that nothing but the attempt happens in it. */
struct outcome { long result; int error; int done; };

int main(int argc, char **argv) {
  argument = argc > 2 ? argv[2] : "";
  arguments = argc > 2 ? argv + 2 : argv + argc;
  struct outcome *outcome =
      mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (outcome == MAP_FAILED || argc < 2) return 2;
  for (size_t at = 0; at < sizeof PROBES / sizeof *PROBES; at++) {
    if (strcmp(PROBES[at].name, argv[1]) != 0) continue;
    pid_t pid = fork();
    if (pid < 0) { puts(strerrorname_np(errno)); return 0; }
    if (pid == 0) {
      if (PROBES[at].attempt == fork_many) setpgid(0, 0);
      errno = 0;
      outcome->result = PROBES[at].attempt();
      outcome->error = errno;
      outcome->done = 1;
      _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (!outcome->done) printf("SIG%s\n", WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "NONE");
    else if (outcome->result < 0) puts(strerrorname_np(outcome->error));
    else if (outcome->result > 0) printf("ok:%ld\n", outcome->result);
    else puts("ok");
    return 0;
  }
  fprintf(stderr, "probe: no such probe\n");
  return 2;
}
