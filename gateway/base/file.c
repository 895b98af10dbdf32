// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

// False with errno.
static bool read_all(int fd, struct buf *out)
{
  for (;;) {
    char byte, *to = buf_reserve(out, 1);
    ssize_t n = to ? read(fd, to, out->cap - out->n) : read(fd, &byte, 1); // without room only the end is awaited
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n == 0;
    if (!to) {
      errno = out->max && out->n >= out->max ? EFBIG : ENOMEM;
      return false;
    }
    out->n += (size_t)n;
  }
}

bool file_read(const char *path, struct buf *out)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  bool ok = read_all(fd, out);
  int error = errno;
  close(fd);
  errno = error;
  return ok;
}
