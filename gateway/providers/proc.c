// SPDX-License-Identifier: Apache-2.0
#include "providers/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stat_line {
  pid_t parent;
  uint64_t started;
};

// proc(5): the fields are counted from 1, and the name, which may hold any character, is the second, so the last ')' counts.
static bool parse(const char *text, struct stat_line *s)
{
  enum { STATE = 3, PARENT = 4, STARTED = 22 };
  const char *p = strrchr(text, ')');
  for (int field = STATE; p && field <= STARTED; field++) {
    p = strchr(p, ' ');
    if (!p)
      return false;
    p++;
    if (field == PARENT)
      s->parent = (pid_t)strtol(p, NULL, 10);
    else if (field == STARTED)
      s->started = strtoull(p, NULL, 10);
  }
  return p != NULL;
}

static bool read_stat(const char *pid, struct stat_line *s)
{
  char path[64], text[1024];
  int n = snprintf(path, sizeof path, "/proc/%s/stat", pid);
  if (n < 0 || (size_t)n >= sizeof path)
    return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  text[got > 0 ? got : 0] = '\0';
  return parse(text, s);
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
  snprintf(name, sizeof name, "%ld", (long)pid);
  return read_stat(name, &s) ? s.started : 0;
}
