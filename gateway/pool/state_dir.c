// SPDX-License-Identifier: Apache-2.0
#include "pool/state_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"

#define PREFIX "envgate-"
static const char lock_name[] = "lock"; // in it the digits of the instance and of the key
// mkdtemp's six; a folder without a lock is either being made just now, or its gateway died in that moment.
enum { SUFFIX = 6, MOMENT_S = 60, TRIES = 8 };

static bool refuse(const char *path, const char *why, struct err *e)
{
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "the state directory %s: %s; set state_dir to one that can be written", path, why);
}

// The lock's descriptor, held; -1 with errno: EWOULDBLOCK when another process holds it, ESTALE when its file was removed meanwhile.
static int take_lock(int dir, int flags)
{
  int fd = openat(dir, lock_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
  struct stat held, named;
  if (fd < 0)
    return -1;
  // The file may have been removed between open and flock.
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
    if (fstat(fd, &held) == 0 && fstatat(dir, lock_name, &named, AT_SYMLINK_NOFOLLOW) == 0 && held.st_ino == named.st_ino && S_ISREG(held.st_mode))
      return fd;
    errno = ESTALE;
  }
  int cause = errno;
  close(fd);
  errno = cause;
  return -1;
}

static void remove_sockets(int dir)
{
  int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *list = copy >= 0 ? fdopendir(copy) : NULL;
  struct stat st;
  if (!list) {
    if (copy >= 0)
      close(copy);
    return;
  }
  for (struct dirent *d; (d = readdir(list));)
    if (str_ends(str_c(d->d_name), STR(".sock")) && fstatat(dir, d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode))
      unlinkat(dir, d->d_name, 0);
  closedir(list);
}

// --- who we are ----------------------------------------------------------------------------------------------------------------------------

static void set_identity(struct state_dir *d, const char *digits)
{
  memcpy(d->instance, digits, IDENTITY_DIGITS);
  memcpy(d->key, digits + IDENTITY_DIGITS, IDENTITY_DIGITS);
  d->instance[IDENTITY_DIGITS] = d->key[IDENTITY_DIGITS] = '\0';
}

static bool new_identity(struct state_dir *d, struct err *e)
{
  uint64_t random[2];
  char digits[2 * IDENTITY_DIGITS + 1];
  if (getrandom(random, sizeof random, 0) != sizeof random)
    return err_set(e, CODE_INTERNAL, REASON_INTERNAL, "getrandom: %s", strerror(errno));
  snprintf(digits, sizeof digits, "%016llx%016llx", (unsigned long long)random[0], (unsigned long long)random[1]);
  set_identity(d, digits);
  return true;
}

static bool read_identity(struct state_dir *d)
{
  char digits[2 * IDENTITY_DIGITS + 1] = "";
  if (pread(d->lock, digits, sizeof digits - 1, 0) != sizeof digits - 1 || strspn(digits, "0123456789abcdef") != sizeof digits - 1)
    return false;
  set_identity(d, digits);
  return true;
}

// What nobody would know again must not be launched, so this is not done by halves.
static bool write_identity(struct state_dir *d, struct err *e)
{
  char line[2 * IDENTITY_DIGITS + 2];
  if (!new_identity(d, e))
    return false;
  int n = snprintf(line, sizeof line, "%s%s\n", d->instance, d->key);
  return (!ftruncate(d->lock, 0) && pwrite(d->lock, line, (size_t)n, 0) == n && !fsync(d->lock)) || refuse(d->path, strerror(errno), e);
}

// --- what dead gateways left ---------------------------------------------------------------------------------------------------------------

static bool is_ours(int dir, struct stat *st)
{
  return fstat(dir, st) == 0 && st->st_uid == geteuid() && (st->st_mode & 07777) == 0700;
}

// Takes over the folder of a dead gateway, or removes one whose gateway died before it had launched anything.
static bool take_if_dead(struct state_dir *d, int base, const char *name)
{
  struct stat st;
  bool taken = false;
  int dir = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (dir < 0)
    return false;
  if (is_ours(dir, &st)) {
    d->lock = take_lock(dir, 0);
    taken = d->lock >= 0 && read_identity(d);
    if (d->lock >= 0 && !taken) {
      unlinkat(dir, lock_name, 0);
      unlinkat(base, name, AT_REMOVEDIR); // only if there is nothing else in it
      close(d->lock);
    } else if (d->lock < 0 && errno == ENOENT && time(NULL) - st.st_mtime > MOMENT_S) {
      unlinkat(base, name, AT_REMOVEDIR);
    }
  }
  if (taken)
    remove_sockets(dir);
  close(dir);
  return taken;
}

// One is enough: who is started next takes another.
static bool take_over(struct state_dir *d, const char *base)
{
  DIR *list = opendir(base);
  bool taken = false;
  if (!list)
    return false;
  for (struct dirent *entry; !taken && (entry = readdir(list));) {
    if (!str_starts(str_c(entry->d_name), STR(PREFIX)) || strlen(entry->d_name) != strlen(PREFIX) + SUFFIX ||
        asprintf(&d->path, "%s/%s", base, entry->d_name) < 0)
      continue;
    taken = take_if_dead(d, dirfd(list), entry->d_name);
    if (!taken) {
      free(d->path);
      d->path = NULL;
      d->lock = -1;
    }
  }
  closedir(list);
  return taken;
}

// --- ours ----------------------------------------------------------------------------------------------------------------------------------

// Takes the lock of the folder at d->path; errno says why not.
static bool lock_it(struct state_dir *d)
{
  int dir = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0)
    return false;
  d->lock = take_lock(dir, O_CREAT);
  int cause = errno;
  if (d->lock >= 0)
    remove_sockets(dir);
  close(dir);
  errno = cause;
  return d->lock >= 0;
}

static bool make_own(struct state_dir *d, struct err *e)
{
  const char *base = getenv("XDG_RUNTIME_DIR");
  if (!base || base[0] != '/' || access(base, W_OK | X_OK))
    base = "/tmp";
  d->own = take_over(d, base);
  if (d->own)
    return true;
  for (int i = 0; i < TRIES; i++) {
    if (asprintf(&d->path, "%s/" PREFIX "XXXXXX", base) < 0) {
      d->path = NULL;
      return err_nomem(e);
    }
    if (!mkdtemp(d->path))
      return refuse(base, strerror(errno), e);
    d->own = lock_it(d);
    if (d->own)
      return write_identity(d, e);
    // Another gateway that starts took it for a dead one's.
    free(d->path);
    d->path = NULL;
  }
  return refuse(base, strerror(errno), e);
}

static bool use(struct state_dir *d, const char *path, struct err *e)
{
  struct stat st;
  if (mkdir(path, 0700) && errno != EEXIST)
    return refuse(path, strerror(errno), e);
  if (stat(path, &st))
    return refuse(path, strerror(errno), e);
  if (!S_ISDIR(st.st_mode))
    return refuse(path, "it is no directory", e);
  if (access(path, W_OK | X_OK))
    return refuse(path, strerror(errno), e);
  d->path = realpath(path, NULL); // a worker may run in another folder
  if (!d->path)
    return err_nomem(e);
  for (int i = 0; i < TRIES; i++)
    if (lock_it(d))
      return read_identity(d) || write_identity(d, e);
    else if (errno == EWOULDBLOCK)
      return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL,
                     "the state directory %s: another gateway uses it; each needs a state_dir of its own", path);
  return refuse(path, strerror(errno), e);
}

bool state_dir_open(struct state_dir *d, const char *configured, bool needed, struct err *e)
{
  *d = (struct state_dir){.lock = -1};
  if (configured ? use(d, configured, e) : make_own(d, e))
    return true;
  if (d->lock >= 0)
    close(d->lock);
  free(d->path);
  *d = (struct state_dir){0};
  return !configured && !needed && new_identity(d, e);
}

void state_dir_close(struct state_dir *d)
{
  if (!d->path)
    return;
  // A configured one keeps the identity: the next gateway there is this one again, should anything be left.
  int dir = d->own ? open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (dir >= 0) {
    unlinkat(dir, lock_name, 0);
    close(dir);
  }
  close(d->lock);
  if (d->own)
    rmdir(d->path);
  free(d->path);
  *d = (struct state_dir){0};
}
