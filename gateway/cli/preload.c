// SPDX-License-Identifier: Apache-2.0
// preload: how far the launches are, as a bar on a terminal and as lines elsewhere.
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/remote.h"
#include "envgate/v1/environment_service.pb-c.h"

#define LINE_PAUSE NSEC_PER_S // between lines that differ in nothing but bytes

struct preload_print {
  const struct remote_args *a;
  struct arena arena;
  bool terminal, drawn, failed;
  char last[160]; // the last line without its bytes
  nsec printed;
};

static double share(const Envgate__V1__PreloadResponse *m)
{
  const Envgate__V1__LaunchProgress *p = m->progress;
  double done = m->workers > 0 ? (double)m->ready_workers / m->workers : 0;
  if (p && p->phase == ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_PULLING && p->bytes > 0 && !m->ready_workers)
    done = (double)p->bytes_done / (double)p->bytes; // the pull is all that there is to see
  return done < 0 ? 0 : done > 1 ? 1 : done;
}

static int columns(void)
{
  struct winsize size;
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static bool draw(struct preload_print *p, const Envgate__V1__PreloadResponse *m, const char *words)
{
  enum { BAR = 24 };
  char line[512], bar[BAR + 1];
  int full = (int)(share(m) * BAR + 0.5);
  for (int i = 0; i < BAR; i++)
    bar[i] = i < full ? '#' : '-';
  bar[BAR] = '\0';
  int n = snprintf(line, sizeof line, "%s [%s] %d/%d ready%s%s", p->a->what, bar, m->ready_workers, m->workers, *words ? ", " : "", words);
  int room = columns() - 1;
  n = n < room ? n : room; // a line that wraps would not be drawn over
  p->drawn = true;
  struct buf out = {0};
  bool ok = buf_printf(&out, "\r%.*s\033[K", n, line) && remote_write(buf_view(&out));
  buf_free(&out);
  return ok;
}

static bool say(struct preload_print *p, const Envgate__V1__PreloadResponse *m, const char *words)
{
  char line[512], key[sizeof p->last];
  const Envgate__V1__LaunchProgress *progress = m->progress;
  snprintf(key, sizeof key, "%d %d %d %d", m->ready_workers, m->starting_workers, progress ? (int)progress->phase : -1,
           progress ? progress->layers_done : 0);
  nsec now = clock_mono();
  if (strcmp(key, p->last) == 0 && now < p->printed + LINE_PAUSE)
    return true;
  memcpy(p->last, key, sizeof key);
  p->printed = now;
  int n = snprintf(line, sizeof line, "%s: %d/%d ready, %d starting%s%s\n", p->a->what, m->ready_workers, m->workers, m->starting_workers,
                   *words ? ": " : "", words);
  return remote_write((struct str){line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1});
}

static bool on_line(void *ctx, struct str line)
{
  struct preload_print *p = ctx;
  struct err e;
  if (p->a->json) {
    struct buf out = {0};
    p->failed = !buf_str(&out, line) || !buf_char(&out, '\n') || !remote_write(buf_view(&out));
    buf_free(&out);
    return !p->failed;
  }
  const Envgate__V1__PreloadResponse *m = (const void *)remote_decode(&envgate__v1__preload_response__descriptor, line, &p->arena, &e);
  char words[128] = "";
  if (m) {
    if (m->progress)
      remote_progress(m->progress, words, sizeof words);
    p->failed = p->terminal ? !draw(p, m, words) : !say(p, m, words);
  } else {
    fprintf(stderr, "envgate: %s\n", e.msg);
    p->failed = true;
  }
  arena_reset(&p->arena);
  return !p->failed;
}

int remote_preload(struct client *c, const struct remote_args *a)
{
  struct preload_print p = {.a = a, .terminal = isatty(STDOUT_FILENO) != 0};
  struct buf path = {0}, body = {0};
  struct err e;
  enum client_result result = CLIENT_UNREACHED;
  arena_init(&p.arena, 1 << 20);
  err_nomem(&e);
  if (buf_str(&path, STR("/v1/environments/")) && client_escape(&path, a->what) && buf_str(&path, STR(":preload")) && buf_char(&path, '\0') &&
      buf_printf(&body, "{\"workers\": %s%s%s}", *a->workers ? a->workers : "1", *a->timeout ? ", \"timeout_s\": " : "", a->timeout)) {
    struct client_request q = {.verb = "POST", .path = path.p, .body = buf_view(&body), .line = on_line, .ctx = &p};
    result = client_call(c, &q, NULL, &e);
  }
  if (p.drawn && !p.failed)
    p.failed = !remote_write(STR("\n"));
  buf_free(&path);
  buf_free(&body);
  arena_free(&p.arena);
  return p.failed ? EXIT_FAILED : remote_end(c, result, &e);
}
