/* /init of a test's initramfs in a whole session: the guest agent as ever, and root beside it. Root does to the view,
 * the devices and the network what a root does, and writes what came of it into the one place that it may write to. Its
 * part stands in part.txt of the project: an address of the host's a line, then `exit` or `stream`. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_packet.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "root-files.h"

static char project[64], fixed[64];
static FILE *report;

static char *in(const char *root, const char *name) {
  static char paths[4][200];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", root, name);
  return path;
}

static void tell(const char *what, const char *how) {
  fprintf(report, "%s: %s\n", what, how);
  fflush(report);
}

static void told(const char *what, long result) { tell(what, result >= 0 ? "ok" : strerrorname_np(errno)); }

/* The root of the view that holds `name`. */
static void find(const char *name, char *into) {
  for (;; usleep(20000))
    for (int number = 0; number < 16; number++) {
      snprintf(into, 64, "/view/%d", number);
      if (access(in(into, name), F_OK) == 0) return;
    }
}

/* What listens there is the host's. */
static long dial_path(const char *path) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  strncpy(to.sun_path, path, sizeof to.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  return closed(fd, connect(fd, (void *)&to, sizeof to));
}

static void files(void) {
  told("uid", getuid() == 0 ? 0 : -1);
  told("remount", mount(0, "/view", 0, MS_REMOUNT | MS_NOSUID | MS_NODEV, 0));
  told("control write", put(in(project, "open.txt"), O_TRUNC));
  told("write", put(in(fixed, "fixed.txt"), O_TRUNC));
  told("create", put(in(fixed, "made"), O_CREAT));
  told("chmod", chmod(in(fixed, "fixed.txt"), 0777));
  told("chown", chown(in(fixed, "fixed.txt"), 0, 0));
  told("truncate", truncate(in(fixed, "fixed.txt"), 0));
  told("times", utimes(in(fixed, "fixed.txt"), 0));
  told("attribute", setxattr(in(fixed, "fixed.txt"), "user.x", "x", 1, 0));
  told("unlink", unlink(in(fixed, "fixed.txt")));
  told("rename", rename(in(fixed, "fixed.txt"), in(fixed, "moved")));
  told("rename out", rename(in(fixed, "fixed.txt"), in(project, "moved")));
  told("rename in", rename(in(project, "open.txt"), in(fixed, "fixed.txt")));
  told("link out", link(in(fixed, "fixed.txt"), in(project, "link")));
  told("mkdir", mkdir(in(fixed, "dir"), 0755));
  told("symlink", symlink("x", in(fixed, "link")));
  told("hidden", get(in(project, ".env")));
  told("hidden made", put(in(project, "sub/.env"), O_CREAT));
  told("hidden by name", rename(in(project, "open.txt"), in(project, ".env")));
  told("protected", put(in(project, ".git/hooks/pre-commit"), O_CREAT));
  told("up", get(in(project, "../../etc/shadow")));
  told("link followed", get(in(project, "out")));
  told("device", mknod(in(project, "device"), S_IFBLK | 0666, makedev(8, 0)));
  told("foreign read", get(in(project, "foreign/secret.txt")));
  told("foreign file", get(in(project, "foreign.txt")));
  told("foreign write", put(in(project, "foreign.txt"), O_TRUNC));
  told("foreign owner", chown(in(project, "foreign.txt"), 1000, 1000));
  told("foreign mode", chmod(in(project, "foreign.txt"), 0666));
  told("socket there", access(in(project, "other.sock"), F_OK));
  told("socket", dial_path(in(project, "other.sock")));
  told("set-uid asked", chmod(in(project, "open.txt"), 06777));
}

static void listing(const char *what, const char *dir, const char *file) {
  char line[1000] = "";
  DIR *all = opendir(dir);
  for (struct dirent *entry; all && (entry = readdir(all));) {
    char path[600], text[64] = "";
    snprintf(path, sizeof path, "%s/%s/%s", dir, entry->d_name, file);
    FILE *one = entry->d_name[0] == '.' ? 0 : fopen(path, "r");
    if (!one) continue;
    if (fgets(text, sizeof text, one)) text[strcspn(text, "\n")] = 0;
    fclose(one);
    strcat(strcat(line, text), " ");
  }
  if (all) closedir(all);
  tell(what, line);
}

static void devices(void) {
  listing("virtio devices", "/sys/bus/virtio/devices", "device");
  listing("ports", "/sys/class/virtio-ports", "name");
  listing("pci", "/sys/bus/pci/devices", "device");
  told("disk", put("/dev/vda", 0));
  int disk = open("/dev/vda", O_RDONLY), writable = 0;
  told("disk made writable", ioctl(disk, BLKROSET, &writable));
  close(disk);
  told("disk then", put("/dev/vda", O_SYNC));
  mkdir("/mnt", 0755);
  told("share 9p", mount("share", "/mnt", "9p", 0, "trans=virtio"));
  told("share virtiofs", mount("share", "/mnt", "virtiofs", 0, 0));
  struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 22};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  told("vsock", fd < 0 ? -1 : connect(fd, (void *)&host, sizeof host));
  if (iopl(3) < 0) {
    told("io ports", -1);
    return;
  }
  /* Ends of QEMU's that other machines have: debug console, debug exit, PCI's configuration, the VMware port. */
  outb('x', 0xe9), outb('x', 0x402), outl(0x31, 0xf4), outl(0x31, 0x501), outl(0x80000000, 0xcf8);
  tell("pci by port", inl(0xcfc) == 0xffffffff ? "none" : "something");
  unsigned magic = 0x564d5868, port = 0x5658, command = 10, answer = magic;
  __asm__ volatile("inl %%dx, %%eax" : "+a"(answer), "+b"(command) : "c"(10), "d"(port));
  tell("vmware port", command == 0x564d5868 ? "something" : "none");
  outw(0x19, 0x510);
  unsigned count = 0;
  for (int byte = 0; byte < 4; byte++) count = count << 8 | inb(0x511);
  char line[2000] = "";
  for (unsigned at = 0; at < count && at < 30; at++) {
    char entry[64];
    for (int byte = 0; byte < 64; byte++) entry[byte] = inb(0x511);
    entry[63] = 0;
    strcat(strcat(line, entry + 8), " ");
  }
  tell("firmware files", line);
}

static unsigned short sum(const void *bytes, size_t length, unsigned total) {
  for (const unsigned char *at = bytes; length > 1; at += 2, length -= 2) total += at[0] << 8 | at[1];
  while (total >> 16) total = (total & 0xffff) + (total >> 16);
  return htons(~total & 0xffff);
}

/* The cable itself; what is read from it ends after a moment of silence. */
static int cable(void) {
  int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  struct sockaddr_ll whole = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("eth0")};
  struct timeval patience = {.tv_usec = 400000};
  bind(fd, (void *)&whole, sizeof whole);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

static const char OWN[] = "\x52\x54\x00\x12\x34\x56";

static struct ether_header ether_to(const void *neighbour) {
  struct ether_header ether = {.ether_type = htons(ETHERTYPE_IP)};
  memcpy(ether.ether_dhost, neighbour, 6);
  memcpy(ether.ether_shost, OWN, 6);
  return ether;
}

static struct iphdr ip_to(const char *from, const char *to, int protocol, int length) {
  struct iphdr ip = {.ihl = 5, .version = 4, .tot_len = htons(length), .ttl = 64, .protocol = protocol,
                     .saddr = inet_addr(from), .daddr = inet_addr(to)};
  ip.check = sum(&ip, 20, 0);
  return ip;
}

/* A datagram of our own making to whoever has this address on the cable: a question for a name. Whether one comes back. */
static const char *shout(const void *neighbour, const char *from, const char *to, int port) {
  struct {
    struct ether_header ether;
    struct iphdr ip;
    struct udphdr udp;
    char question[27];
  } __attribute__((packed)) frame = {ether_to(neighbour), ip_to(from, to, IPPROTO_UDP, 55),
                                     .question = "\1\2\1\0\0\1\0\0\0\0\0\0\4root\4test\0\0\1\0"};
  static int own_port = 43000;
  frame.question[26] = 1;
  frame.udp = (struct udphdr){.source = htons(own_port++), .dest = htons(port), .len = htons(35)};
  int fd = cable();
  if (send(fd, &frame, sizeof frame, 0) != sizeof frame) return strerrorname_np(errno);
  const char *seen = "none";
  unsigned char heard[2000];
  for (ssize_t length; (length = recv(fd, heard, sizeof heard, 0)) > 0;) {
    struct ether_header *ether = (void *)heard;
    struct iphdr *ip = (void *)(heard + 14);
    struct udphdr *udp = (void *)(heard + 34);
    if (length < 42 || ether->ether_type != htons(ETHERTYPE_IP) || ip->protocol != IPPROTO_UDP) continue;
    if (udp->dest == frame.udp.source) seen = "answered";
  }
  close(fd);
  return seen;
}

/* A TCP SYN of our own making to the host's side of the cable; whether anything comes back. */
static const char *knock(const unsigned char *neighbour, const char *from, const char *to, int port) {
  struct {
    struct ether_header ether;
    struct iphdr ip;
    struct tcphdr tcp;
  } __attribute__((packed)) frame = {0};
  /* One for each: an answer that comes late is none to the next. */
  static int own_port = 41000;
  struct {
    unsigned from, to;
    unsigned char zero, protocol;
    unsigned short length;
    struct tcphdr tcp;
  } __attribute__((packed)) summed = {0};
  frame.ether = ether_to(neighbour);
  frame.ip = ip_to(from, to, IPPROTO_TCP, 40);
  frame.tcp.source = htons(own_port++), frame.tcp.dest = htons(port), frame.tcp.seq = 1;
  frame.tcp.doff = 5, frame.tcp.syn = 1, frame.tcp.window = htons(1000);
  summed.from = frame.ip.saddr, summed.to = frame.ip.daddr, summed.protocol = IPPROTO_TCP, summed.length = htons(20);
  summed.tcp = frame.tcp;
  frame.tcp.check = sum(&summed, sizeof summed, 0);
  int fd = cable();
  if (send(fd, &frame, sizeof frame, 0) != sizeof frame) return strerrorname_np(errno);
  const char *seen = "none";
  unsigned char heard[2000];
  for (ssize_t length; (length = recv(fd, heard, sizeof heard, 0)) > 0;) {
    struct ether_header *ether = (void *)heard;
    struct iphdr *ip = (void *)(heard + 14);
    struct tcphdr *tcp = (void *)(heard + 34);
    if (length < 54 || ether->ether_type != htons(ETHERTYPE_IP) || ip->protocol != IPPROTO_TCP) continue;
    if (tcp->dest == frame.tcp.source && tcp->ack) seen = tcp->syn ? "taken" : tcp->rst ? "reset" : "answered";
  }
  close(fd);
  return seen;
}

/* What says `local service` there is the host's own. */
static const char *dial(const char *host, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(host)};
  struct timeval patience = {.tv_sec = 2};
  char text[200] = "";
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, (void *)&to, sizeof to) < 0) return strerrorname_np(errno);
  if (write(fd, "GET / HTTP/1.0\r\n\r\n", 18) < 0) return strerrorname_np(errno);
  ssize_t length = recv(fd, text, sizeof text - 1, MSG_WAITALL);
  close(fd);
  return length > 0 && strstr(text, "local service") ? "local service" : length > 0 ? "the gate" : "none";
}

/* Machines that run beside this one have its addresses, and one of them listens (test/support/machine-beside.ts). */
static void others(const unsigned char *gate) {
  const char *everybody = "\xff\xff\xff\xff\xff\xff";
  tell("question", shout(gate, "192.0.0.2", "192.0.0.1", 53));
  tell("shout", shout(everybody, "192.0.0.1", "192.0.0.2", 7777));
  tell("shout to all", shout(everybody, "192.0.0.1", "255.255.255.255", 7777));
  tell("call", shout(OWN, "192.0.0.1", "192.0.0.2", 7777));
}

static void network(char places[8][64]) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = inet_addr("192.0.0.1")};
  int udp = socket(AF_INET, SOCK_DGRAM, 0);
  char name[100], byte;
  struct timeval patience = {.tv_sec = 1};
  setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  connect(udp, (void *)&to, sizeof to);
  told("udp", write(udp, "x", 1) < 0 ? -1 : recv(udp, &byte, 1, 0));
  unsigned char mac[6] = {0};
  for (int at = 0; places[at][0]; at++) {
    char host[64];
    int port;
    if (sscanf(places[at], "%63[^:]:%d", host, &port) != 2) continue;
    snprintf(name, sizeof name, "dial %d", at);
    tell(name, dial(host, port));
    FILE *neighbours = fopen("/proc/net/arp", "r");
    for (char line[200]; neighbours && fgets(line, sizeof line, neighbours);)
      sscanf(line, "192.0.0.1 %*s %*s %hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5);
    if (neighbours) fclose(neighbours);
    snprintf(name, sizeof name, "knock %d", at);
    tell(name, knock(mac, "192.0.0.2", host, port));
    snprintf(name, sizeof name, "knock as loopback %d", at);
    tell(name, knock(mac, "127.0.0.1", host, port));
    snprintf(name, sizeof name, "knock as the gate's %d", at);
    tell(name, knock(mac, "21.0.0.5", host, port));
  }
  others(mac);
}

/* A port that PID 1 holds, taken from it. */
static int port_of_init(const char *wanted) {
  int init = syscall(SYS_pidfd_open, 1, 0);
  for (int number = 3; number < 64; number++) {
    char link[100], target[100] = "", path[200], name[64] = "";
    snprintf(link, sizeof link, "/proc/1/fd/%d", number);
    if (readlink(link, target, sizeof target - 1) < 0 || strncmp(target, "/dev/vport", 10)) continue;
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", target + 5);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(name, sizeof name, file)) continue;
    fclose(file);
    name[strcspn(name, "\n")] = 0;
    if (!strcmp(name, wanted)) return syscall(SYS_pidfd_getfd, init, number, 0);
  }
  return -1;
}

int main(void) {
  if (fork() != 0) {
    char *words[] = {"/init", 0};
    execv("/guest", words);
    return 1;
  }
  static char places[8][64], part[64];
  find("part.txt", project);
  find("fixed.txt", fixed);
  FILE *told_to = fopen(in(project, "part.txt"), "r");
  for (int at = 0; told_to && fgets(part, sizeof part, told_to);) {
    part[strcspn(part, "\n")] = 0;
    if (strchr(part, ':') && at < 7) strcpy(places[at++], part);
  }
  report = fopen(in(project, "report.txt"), "w");
  if (!strcmp(part, "exit")) {
    files();
    devices();
    network(places);
  }
  tell("done", "ok");
  while (access(in(project, "goes-on.txt"), F_OK) != 0) usleep(50000);
  if (!strcmp(part, "exit")) {
    int control = port_of_init("ambit.control");
    const char *lie = "{\"ev\":\"ended\",\"code\":0}\n";
    if (control < 0 || write(control, lie, strlen(lie)) < 0) told("lie", -1);
  } else {
    char nonsense[64];
    memset(nonsense, 0xff, sizeof nonsense);
    int view = port_of_init("ambit.view");
    if (view < 0 || write(view, nonsense, sizeof nonsense) < 0) told("lie", -1);
  }
  for (;;) pause();
}
