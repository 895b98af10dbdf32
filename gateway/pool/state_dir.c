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
#include <unistd.h>

#include "base/str.h"

// Of those that gateways without a state_dir make.
#define OWN_PREFIX "envgate-"
// In it: the instance's digits and the key's. Locked for as long as the gateway lives.
#define IDENTITY_FILE "identity"

static bool refuse_dir(const char *path, const char *why, struct err *e)
{
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "the state directory %s: %s; set state_dir to one that can be written", path, why);
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
  if (pread(d->lock, digits, 2 * IDENTITY_DIGITS, 0) != 2 * IDENTITY_DIGITS || strspn(digits, "0123456789abcdef") != 2 * IDENTITY_DIGITS)
    return false;
  set_identity(d, digits);
  return true;
}

static bool write_identity(struct state_dir *d, struct err *e)
{
  char line[2 * IDENTITY_DIGITS + 2];
  if (!new_identity(d, e))
    return false;
  int n = snprintf(line, sizeof line, "%s%s\n", d->instance, d->key);
  return (!ftruncate(d->lock, 0) && pwrite(d->lock, line, (size_t)n, 0) == n && !fsync(d->lock)) ||
         refuse_dir(d->path, strerror(errno), e); // a container that nobody would know again must not be made
}

// Whether what was locked is still what the name means: who ends removes it.
static bool still_there(int dir, int file)
{
  struct stat held, named;
  return !fstat(file, &held) && !fstatat(dir, IDENTITY_FILE, &named, AT_SYMLINK_NOFOLLOW) && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

// Locks d->path. 1: done; 0: another gateway has it, or it is none (any more); -1: errno says why not.
static int lock_dir(struct state_dir *d, int flags)
{
  int dir = open(d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (dir < 0)
    return -1;
  int got = -1;
  d->lock = openat(dir, IDENTITY_FILE, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
  // A new one can be held by who just looks whether it was left, for a moment.
  if (d->lock >= 0 && !flock(d->lock, flags & O_EXCL ? LOCK_EX : LOCK_EX | LOCK_NB))
    got = still_there(dir, d->lock);
  else if (d->lock >= 0 && errno == EWOULDBLOCK)
    got = 0;
  int error = errno;
  if (got != 1 && d->lock >= 0) {
    close(d->lock);
    d->lock = -1;
  }
  close(dir);
  errno = error;
  return got;
}

// Removes the sockets of workers that ended with an earlier life.
static void sweep(const struct state_dir *d)
{
  DIR *dir = opendir(d->path);
  for (struct dirent *entry; dir && (entry = readdir(dir));)
    if (str_ends(str_c(entry->d_name), STR(".sock")))
      unlinkat(dirfd(dir), entry->d_name, 0);
  if (dir)
    closedir(dir);
}

// --- the folder ----------------------------------------------------------------------------------------------------------------------------

static bool use_dir(struct state_dir *d, const char *path, struct err *e)
{
  struct stat st;
  if (mkdir(path, 0700) && errno != EEXIST)
    return refuse_dir(path, strerror(errno), e);
  if (stat(path, &st))
    return refuse_dir(path, strerror(errno), e);
  if (!S_ISDIR(st.st_mode))
    return refuse_dir(path, "it is no directory", e);
  if (access(path, W_OK | X_OK))
    return refuse_dir(path, strerror(errno), e);
  d->path = realpath(path, NULL); // a worker may run in another folder
  if (!d->path)
    return err_nomem(e);
  int locked = lock_dir(d, O_CREAT);
  if (!locked)
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "the state directory %s: another gateway uses it; give each a state_dir of its own",
                   d->path);
  if (locked < 0)
    return refuse_dir(d->path, strerror(errno), e);
  return read_identity(d) || write_identity(d, e);
}

// Whether a folder is one that a gateway of this user made, and nobody else can have written to.
static bool is_ours(const char *path)
{
  struct stat st;
  return !lstat(path, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077);
}

// Takes over a folder that a gateway left as it was killed.
static bool take_over(struct state_dir *d, const char *base)
{
  DIR *dir = opendir(base);
  bool found = false;
  for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
    if (strncmp(entry->d_name, OWN_PREFIX, strlen(OWN_PREFIX)) != 0 || asprintf(&d->path, "%s/%s", base, entry->d_name) < 0)
      continue;
    found = is_ours(d->path) && lock_dir(d, 0) == 1 && read_identity(d);
    if (found)
      break;
    if (d->lock >= 0)
      close(d->lock);
    free(d->path);
    d->path = NULL;
    d->lock = -1;
  }
  if (dir)
    closedir(dir);
  return found;
}

static bool make_own_dir(struct state_dir *d, struct err *e)
{
  const char *base = getenv("XDG_RUNTIME_DIR");
  if (!base || base[0] != '/' || access(base, W_OK | X_OK))
    base = "/tmp";
  d->own = true;
  if (take_over(d, base))
    return true;
  if (asprintf(&d->path, "%s/" OWN_PREFIX "XXXXXX", base) < 0) {
    d->path = NULL;
    return err_nomem(e);
  }
  if (!mkdtemp(d->path)) {
    refuse_dir(base, strerror(errno), e);
    free(d->path);
    d->path = NULL;
    return false;
  }
  // Nobody takes it over before its identity is there and its lock is free.
  return (lock_dir(d, O_CREAT | O_EXCL) == 1 && write_identity(d, e)) || refuse_dir(d->path, strerror(errno), e);
}

bool state_dir_open(struct state_dir *d, const char *configured, bool needed, struct err *e)
{
  *d = (struct state_dir){.lock = -1};
  if (configured ? use_dir(d, configured, e) : make_own_dir(d, e)) {
    sweep(d);
    return true;
  }
  state_dir_close(d);
  if (configured || needed)
    return false;
  *d = (struct state_dir){.lock = -1};
  return new_identity(d, e);
}

void state_dir_close(struct state_dir *d)
{
  if (!d->path)
    return;
  if (d->own && d->lock >= 0) {
    char *file = NULL;
    if (asprintf(&file, "%s/" IDENTITY_FILE, d->path) >= 0)
      unlink(file);
    free(file);
  }
  if (d->own)
    rmdir(d->path);
  if (d->lock >= 0)
    close(d->lock);
  free(d->path);
  *d = (struct state_dir){.lock = -1};
}
