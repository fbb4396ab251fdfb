/* /init of a test's initramfs: root in the guest, beside the guest agent. Waits for the view and does to it what a
 * root does; each answer goes to the console. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "root-files.h"

static void tell(const char *what, long result) {
  char line[200];
  int length = snprintf(line, sizeof line, "<0>root: %s: %s\n", what, result >= 0 ? "ok" : strerror(errno));
  int fd = open("/dev/kmsg", O_WRONLY);
  if (fd >= 0 && write(fd, line, length) == length) close(fd);
}

int main(void) {
  if (fork() != 0) {
    char *words[] = {"/init", 0};
    execv("/guest", words);
    return 1;
  }
  while (access("/view/1/fixed", F_OK) != 0) usleep(10000);
  tell("uid", getuid() == 0 ? 0 : -1);
  tell("remount", mount(0, "/view", 0, MS_REMOUNT | MS_NOSUID | MS_NODEV, 0));
  tell("write control", put("/view/0/open", O_TRUNC));
  tell("write", put("/view/1/fixed", O_TRUNC));
  tell("create", put("/view/1/made", O_CREAT));
  tell("chmod", chmod("/view/1/fixed", 0777));
  tell("unlink", unlink("/view/1/fixed"));
  tell("rename", rename("/view/1/fixed", "/view/1/moved"));
  tell("link out", link("/view/1/fixed", "/view/0/link"));
  tell("mkdir", mkdir("/view/1/dir", 0755));
  tell("hidden", get("/view/0/.env"));
  tell("protected", put("/view/0/kept", 0));
  tell("up", get("/view/0/../../etc/shadow"));
  tell("disk", put("/dev/vda", 0));
  tell("done", 0);
  for (;;) pause();
}
