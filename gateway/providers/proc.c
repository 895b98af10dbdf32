// SPDX-License-Identifier: Apache-2.0
#include "providers/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct stat_line {
  char state;
  pid_t parent;
  uint64_t started;
  int exit_status;
};

// proc(5): the fields are counted from 1, and the name, which may hold any character, is the second, so the last ')' counts.
static bool parse(const char *text, struct stat_line *s)
{
  enum { STATE = 3, PARENT = 4, STARTED = 22, EXIT_STATUS = 52 };
  const char *p = strrchr(text, ')');
  for (int field = STATE; p && field <= EXIT_STATUS; field++) {
    p = strchr(p, ' ');
    if (!p)
      return false;
    p++;
    if (field == STATE)
      s->state = *p;
    else if (field == PARENT)
      s->parent = (pid_t)strtol(p, NULL, 10);
    else if (field == STARTED)
      s->started = strtoull(p, NULL, 10);
    else if (field == EXIT_STATUS)
      s->exit_status = (int)strtol(p, NULL, 10);
  }
  return p != NULL;
}

// The beginning of one of a process's files; "" where there is none.
static void read_file(const char *pid, const char *file, char *text, size_t max)
{
  char path[64];
  int n = snprintf(path, sizeof path, "/proc/%s/%s", pid, file);
  int fd = n > 0 && (size_t)n < sizeof path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  ssize_t got = fd < 0 ? 0 : read(fd, text, max - 1);
  if (fd >= 0)
    close(fd);
  text[got > 0 ? got : 0] = '\0';
}

static bool read_stat(const char *pid, struct stat_line *s)
{
  char text[1024];
  read_file(pid, "stat", text, sizeof text);
  return parse(text, s);
}

static const char *name_of(pid_t pid, char name[16])
{
  snprintf(name, 16, "%ld", (long)pid);
  return name;
}

void proc_children(void (*each)(void *ctx, pid_t pid, uint64_t started), void *ctx)
{
  pid_t self = getpid();
  DIR *proc = opendir("/proc");
  struct stat_line s;
  if (!proc)
    return;
  for (struct dirent *d; (d = readdir(proc));)
    if (d->d_name[0] >= '1' && d->d_name[0] <= '9' && read_stat(d->d_name, &s) && s.parent == self)
      each(ctx, (pid_t)strtol(d->d_name, NULL, 10), s.started);
  closedir(proc);
}

uint64_t proc_started(pid_t pid)
{
  char name[16];
  struct stat_line s;
  return read_stat(name_of(pid, name), &s) ? s.started : 0;
}

// linux/pidfd.h's struct pidfd_info and PIDFD_GET_INFO, which are newer than the headers that this may be built with.
struct pidfd_info_0 {
  uint64_t mask, cgroup;
  uint32_t ids[11];
  int32_t exit_status;
};
#define PIDFD_GET_INFO_0 _IOWR(0xFF, 11, struct pidfd_info_0)
#define PIDFD_INFO_EXIT_BIT (UINT64_C(1) << 3)

bool proc_exit_status(int pidfd, pid_t pid, int *status)
{
  char name[16];
  struct stat_line s;
  struct pidfd_info_0 info = {.mask = PIDFD_INFO_EXIT_BIT};
  if (read_stat(name_of(pid, name), &s) && s.state == 'Z' && s.exit_status) {
    *status = s.exit_status;
    return true;
  }
  bool known = ioctl(pidfd, PIDFD_GET_INFO_0, &info) == 0 && (info.mask & PIDFD_INFO_EXIT_BIT);
  *status = info.exit_status;
  return known;
}

bool proc_in_cgroup(pid_t pid, const char *part)
{
  char name[16], text[4096];
  read_file(name_of(pid, name), "cgroup", text, sizeof text);
  return strstr(text, part) != NULL;
}
