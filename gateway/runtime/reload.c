// SPDX-License-Identifier: Apache-2.0
#include "runtime/reload.h"

#include <string.h>
#include <sys/stat.h>

enum { EVERY_MS = 1000 };
// The kernel's stamps are as coarse as its clock ticks: a file that was changed just now may change again within the same stamp.
#define SETTLED (50 * NSEC_PER_MS)

static struct file_stamp stamp_of(const char *path)
{
  struct stat st;
  struct file_stamp stamp;
  memset(&stamp, 0, sizeof stamp);
  if (path && stat(path, &st) == 0) {
    stamp.dev = st.st_dev;
    stamp.ino = st.st_ino;
    stamp.size = st.st_size;
    stamp.modified = st.st_mtim;
    stamp.changed = st.st_ctim;
  }
  return stamp;
}

static bool same_time(struct timespec a, struct timespec b)
{
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool same(const struct file_stamp *a, const struct file_stamp *b)
{
  return a->dev == b->dev && a->ino == b->ino && a->size == b->size && same_time(a->modified, b->modified) && same_time(a->changed, b->changed);
}

static bool settled(const struct file_stamp *s)
{
  nsec changed = (nsec)s->changed.tv_sec * NSEC_PER_S + (nsec)s->changed.tv_nsec, now = clock_wall();
  return changed > now || now - changed > SETTLED; // a stamp from the future says nothing
}

static void on_timer(struct timer *t)
{
  struct reload *l = CONTAINER_OF(t, struct reload, timer);
  struct file_stamp now[RELOAD_FILES];
  bool changed = false, all_settled = true;
  for (int i = 0; i < RELOAD_FILES; i++) {
    now[i] = stamp_of(l->paths[i]);
    changed = changed || !same(&now[i], &l->seen[i]);
    all_settled = all_settled && settled(&now[i]);
  }
  timer_set(l->r, t, nsec_add(l->r->now, EVERY_MS * NSEC_PER_MS));
  if (!changed || !all_settled)
    return;
  memcpy(l->seen, now, sizeof now);
  l->changed(l);
}

bool reload_start(struct reload *l, struct reactor *r)
{
  l->r = r;
  l->timer.fire = on_timer;
  for (int i = 0; i < RELOAD_FILES; i++) {
    l->seen[i] = stamp_of(l->paths[i]);
    if (!settled(&l->seen[i]))
      memset(&l->seen[i], 0, sizeof l->seen[i]); // looked at again, as it may change unseen
  }
  return timer_set(r, &l->timer, nsec_add(clock_mono(), EVERY_MS * NSEC_PER_MS));
}

void reload_stop(struct reload *l)
{
  if (l->r)
    timer_unset(l->r, &l->timer);
}
