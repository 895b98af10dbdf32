// SPDX-License-Identifier: Apache-2.0
// workers, sessions, drain, stop: what there is, as a table or as lines of JSON.
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/plain.h"
#include "cli/remote.h"
#include "envgate/v1/session_service.pb-c.h"
#include "envgate/v1/worker_service.pb-c.h"

// --- tables --------------------------------------------------------------------------------------------------------------------------------

enum { COLUMNS_MOST = 8 };

// Cells in the order of their rows, each ended by NUL.
struct table {
  struct buf cells;
  int columns;
  size_t width[COLUMNS_MOST];
  int at; // the next cell's column
  bool failed;
};

static void cell(struct table *t, const char *text)
{
  size_t from = t->cells.n;
  struct str line = {text, strcspn(text, "\n")};
  t->failed |= !plain_add(&(struct plain){0}, line, &t->cells);
  size_t n = t->cells.n - from;
  t->failed |= !buf_char(&t->cells, '\0');
  if (n > t->width[t->at])
    t->width[t->at] = n;
  t->at = (t->at + 1) % t->columns;
}

static void head(struct table *t, const char *const *titles)
{
  while (titles[t->columns])
    t->columns++;
  for (int i = 0; i < t->columns; i++)
    cell(t, titles[i]);
}

// False: out of memory, or it can't be written.
static bool table_print(struct table *t)
{
  struct buf out = {0};
  bool ok = !t->failed;
  int column = 0;
  for (size_t at = 0; ok && at < t->cells.n; at += strlen(t->cells.p + at) + 1) {
    const char *text = t->cells.p + at;
    bool last = column == t->columns - 1;
    ok = last ? buf_printf(&out, "%s\n", text) : buf_printf(&out, "%-*s  ", (int)t->width[column], text);
    column = last ? 0 : column + 1;
  }
  ok = ok && remote_write(buf_view(&out));
  buf_free(&out);
  return ok;
}

static const char *id_of(const char *name)
{
  const char *slash = strrchr(name, '/');
  return slash ? slash + 1 : name;
}

// "STATE_READY" → "ready".
static const char *word_of(const ProtobufCEnumDescriptor *type, int value, const char *prefix, char *text, size_t room)
{
  const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(type, value);
  const char *name = v ? v->name : "";
  if (str_starts(str_c(name), str_c(prefix)))
    name += strlen(prefix);
  size_t n = 0;
  for (; name[n] && n + 1 < room; n++)
    text[n] = name[n] >= 'A' && name[n] <= 'Z' ? (char)(name[n] - 'A' + 'a') : name[n];
  text[n] = '\0';
  return text;
}

// From now to a time, or from a time to now: "12s", "3m", "5h", "8d".
static const char *span(const Google__Protobuf__Timestamp *t, bool until, char *text, size_t room)
{
  if (!t)
    return "-";
  int64_t now = (int64_t)(clock_wall() / NSEC_PER_S), s = until ? t->seconds - now : now - t->seconds;
  s = s < 0 ? 0 : s;
  if (s < 120)
    snprintf(text, room, "%llds", (long long)s);
  else if (s < 7200)
    snprintf(text, room, "%lldm", (long long)s / 60);
  else if (s < 172800)
    snprintf(text, room, "%lldh", (long long)s / 3600);
  else
    snprintf(text, room, "%lldd", (long long)s / 86400);
  return text;
}

// --- pages ---------------------------------------------------------------------------------------------------------------------------------

struct listing {
  const char *collection; // "workers", also the member that has them
  const ProtobufCMessageDescriptor *type;
  void (*row)(struct table *t, const ProtobufCMessage *m); // NULL: JSON
  struct table table;
  struct arena arena;
  struct buf token; // of the next page; empty: there is none
};

static bool take_item(struct listing *l, struct str item, struct err *e)
{
  if (!l->row) {
    struct buf line = {0};
    bool ok = buf_str(&line, item) && buf_char(&line, '\n') && remote_write(buf_view(&line));
    buf_free(&line);
    return ok || err_set(e, CODE_INTERNAL, NULL, "the list could not be printed");
  }
  const ProtobufCMessage *m = remote_decode(l->type, item, &l->arena, e);
  if (!m)
    return false;
  l->row(&l->table, m);
  arena_reset(&l->arena);
  return true;
}

static bool take_items(struct listing *l, struct json *j, struct err *e)
{
  struct str item;
  if (!json_enter_array(j))
    return false;
  while (json_next_item(j))
    if (!json_skip(j, &item) || !take_item(l, item, e))
      return false;
  return !j->failed;
}

static bool take_page(struct listing *l, struct str page, struct err *e)
{
  struct json j;
  struct str key, raw;
  err_set(e, CODE_INTERNAL, NULL, "the answer is none of a gateway's");
  json_init(&j, page, JSON_DEPTH);
  buf_free(&l->token);
  if (!json_enter_object(&j))
    return false;
  while (json_next_key(&j, &key)) {
    bool ok;
    if (json_raw_eq(key, str_c(l->collection)))
      ok = take_items(l, &j, e);
    else if (json_raw_eq(key, STR("next_page_token")))
      ok = json_string(&j, &raw) && json_unescape(raw, &l->token);
    else
      ok = json_skip(&j, NULL);
    if (!ok)
      return false;
  }
  return !j.failed;
}

static bool page_path(struct listing *l, const struct remote_args *a, struct buf *path)
{
  path->n = 0;
  return buf_printf(path, "/v1/%s?page_size=1000%s", l->collection, a->all ? "&show_ended=true" : "") &&
         (!*a->environment || (buf_str(path, STR("&environment=")) && client_escape(path, a->environment))) &&
         (!l->token.n || (buf_str(path, STR("&page_token=")) && buf_char(&l->token, '\0') && client_escape(path, l->token.p))) &&
         buf_char(path, '\0');
}

static int list(struct client *c, const struct remote_args *a, struct listing *l, const char *const *titles)
{
  struct buf path = {0}, page = {0};
  struct err e;
  int exit_code = EXIT_OK;
  arena_init(&l->arena, 64 << 20);
  if (a->json)
    l->row = NULL;
  else
    head(&l->table, titles);
  do {
    struct client_request q = {.verb = "GET"};
    err_nomem(&e);
    enum client_result result = CLIENT_UNREACHED;
    if (page_path(l, a, &path)) {
      q.path = path.p;
      result = client_call(c, &q, &page, &e);
      if (result == CLIENT_DONE && !take_page(l, buf_view(&page), &e))
        result = CLIENT_REFUSED;
    }
    exit_code = remote_end(c, result, &e);
    buf_free(&page);
  } while (exit_code == EXIT_OK && l->token.n);
  if (exit_code == EXIT_OK && !a->json && !table_print(&l->table))
    exit_code = EXIT_FAILED;
  buf_free(&path);
  buf_free(&l->token);
  buf_free(&l->table.cells);
  arena_free(&l->arena);
  return exit_code;
}

// --- workers -------------------------------------------------------------------------------------------------------------------------------

static const char *const worker_titles[] = {"WORKER", "ENVIRONMENT", "STATE", "SESSIONS", "AGE", "ADDRESS", "DETAIL", NULL};

static void worker_row(struct table *t, const ProtobufCMessage *m)
{
  const Envgate__V1__Worker *w = (const void *)m;
  char text[128];
  cell(t, id_of(w->name));
  cell(t, id_of(w->environment));
  cell(t, word_of(&envgate__v1__worker__state__descriptor, (int)w->state, "STATE_", text, sizeof text));
  if (w->capacity)
    snprintf(text, sizeof text, "%d/%d", w->sessions, w->capacity);
  else
    snprintf(text, sizeof text, "%d", w->sessions);
  cell(t, text);
  cell(t, span(w->start_time, false, text, sizeof text));
  cell(t, *w->address ? w->address : "-");
  if (w->error) {
    cell(t, w->error->message);
  } else if (w->progress) {
    remote_progress(w->progress, text, sizeof text);
    cell(t, text);
  } else {
    cell(t, "");
  }
}

int remote_workers(struct client *c, const struct remote_args *a)
{
  struct listing l = {.collection = "workers", .type = &envgate__v1__worker__descriptor, .row = worker_row};
  return list(c, a, &l, worker_titles);
}

// Acts on one and shows it.
static int act(struct client *c, const struct remote_args *a, const char *action)
{
  struct listing l = {.type = &envgate__v1__worker__descriptor, .row = a->json ? NULL : worker_row};
  struct buf path = {0}, reply = {0};
  struct client_request q = {.verb = "POST", .body = STR("{}")};
  struct err e;
  enum client_result result = CLIENT_UNREACHED;
  err_nomem(&e);
  arena_init(&l.arena, 64 << 20);
  if (!a->json)
    head(&l.table, worker_titles);
  if (buf_str(&path, STR("/v1/workers/")) && client_escape(&path, a->what) && buf_printf(&path, ":%s", action) && buf_char(&path, '\0')) {
    q.path = path.p;
    result = client_call(c, &q, &reply, &e);
    if (result == CLIENT_DONE && !take_item(&l, buf_view(&reply), &e))
      result = CLIENT_REFUSED;
  }
  int exit_code = remote_end(c, result, &e);
  if (exit_code == EXIT_OK && !a->json && !table_print(&l.table))
    exit_code = EXIT_FAILED;
  buf_free(&path);
  buf_free(&reply);
  buf_free(&l.table.cells);
  arena_free(&l.arena);
  return exit_code;
}

int remote_drain(struct client *c, const struct remote_args *a)
{
  return act(c, a, "drain");
}

int remote_stop(struct client *c, const struct remote_args *a)
{
  return act(c, a, "stop");
}

// --- sessions ------------------------------------------------------------------------------------------------------------------------------

static const char *const session_titles[] = {"SESSION", "ENVIRONMENT", "STATE", "WORKER", "STEP", "AGE", "EXPIRES", "DETAIL", NULL};

static void session_row(struct table *t, const ProtobufCMessage *m)
{
  const Envgate__V1__Session *s = (const void *)m;
  char text[64];
  cell(t, id_of(s->name));
  cell(t, id_of(s->environment));
  cell(t, word_of(&envgate__v1__session__state__descriptor, (int)s->state, "STATE_", text, sizeof text));
  cell(t, *s->worker ? s->worker : "-");
  snprintf(text, sizeof text, "%lld", (long long)s->step_index);
  cell(t, text);
  cell(t, span(s->create_time, false, text, sizeof text));
  cell(t, span(s->expire_time, true, text, sizeof text));
  cell(t, s->error ? s->error->message : "");
}

int remote_sessions(struct client *c, const struct remote_args *a)
{
  struct listing l = {.collection = "sessions", .type = &envgate__v1__session__descriptor, .row = session_row};
  return list(c, a, &l, session_titles);
}
