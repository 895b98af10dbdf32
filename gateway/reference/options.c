// SPDX-License-Identifier: Apache-2.0
#include "reference/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define REPLY_BYTES_MAX (100 * 1024 * 1024)

// One row an option: name, argument (NULL: none), default (NULL: none), help.
#define OPTIONS(X)                                                                                                                            \
  X(LISTEN, "listen", "HOST:PORT|unix:PATH", "127.0.0.1:8000", "Where to listen. Port 0 takes a free one; the line on stdout says which.")    \
  X(DIALECT, "dialect", "ws|http|both", "ws",                                                                                                 \
    "ws: as openenv >= 0.2, where a WebSocket is a session and plain HTTP keeps nothing. http: as openenv-core 0.1, where plain HTTP drives " \
    "the one environment of the process and there is no /ws. both: /ws, and plain HTTP with one environment.")                                \
  X(CAPACITY, "capacity", "N", "1", "How many WebSocket sessions it takes at a time.")                                                        \
  X(DELAY_MS, "delay-ms", "MS", "0", "How long each step takes.")                                                                             \
  X(REPLY_BYTES, "reply-bytes", "N", "0", "Fills each reply of reset and step up to so many bytes.")                                          \
  X(FAULTS, "faults", NULL, NULL,                                                                                                             \
    "Lets an action ask for a fault: a member `fault` that is slow, error, validation, garbage, binary, close, drop, hang, exit, "            \
    "desync_extra or big, with `ms`, `code` or `bytes`.")                                                                                     \
  X(NO_READY, "no-ready", NULL, NULL, "Answers /health with 503.")                                                                            \
  X(BOOT_MS, "boot-ms", "MS", "0", "Listens only after so long.")                                                                             \
  X(EXIT_AFTER_MS, "exit-after-ms", "MS", NULL, "Exits so long after the start, listening or not.")                                           \
  X(EXIT_CODE, "exit-code", "N", "1", "The exit status of --exit-after-ms.")                                                                  \
  X(HELP, "help", NULL, NULL, "Shows this help.")

enum option_id {
#define X(id, name, argument, standard, help) OPTION_##id,
  OPTIONS(X)
#undef X
      OPTION_COUNT
};

struct row {
  const char *name, *argument, *standard, *help;
};

static const struct row rows[OPTION_COUNT] = {
#define X(id, name, argument, standard, help) {name, argument, standard, help},
    OPTIONS(X)
#undef X
};

bool reference_options_markdown(struct buf *out)
{
  bool ok = buf_str(out, STR("| Option | Default | What it does |\n| --- | --- | --- |\n"));
  for (int i = 0; ok && i < OPTION_COUNT; i++) {
    const struct row *row = &rows[i];
    ok = buf_printf(out, "| `--%s%s", row->name, row->argument ? " " : "");
    for (const char *p = row->argument; ok && p && *p; p++) // a bar would end the table's cell
      ok = *p == '|' ? buf_str(out, STR("\\|")) : buf_char(out, *p);
    ok = ok && buf_printf(out, row->standard ? "` | `%s` | %s |\n" : "` | %s | %s |\n", row->standard ? row->standard : "", row->help);
  }
  return ok;
}

static void show_help(void)
{
  printf("usage: envgate worker NAME [options]\n\nServes a built-in environment over OpenEnv's protocol, for trying things out, tests and "
         "benchmarks.\n\nEnvironments:\n");
  const struct ref_env_kind *kind;
  for (unsigned i = 0; (kind = ref_env_kind_at(i)); i++)
    printf("  %-10s %s\n", kind->name, kind->description);
  printf("\nOptions:\n");
  for (int i = 0; i < OPTION_COUNT; i++) {
    const struct row *row = &rows[i];
    printf("  --%s %s\n      %s%s%s%s\n", row->name, row->argument ? row->argument : "", row->help, row->standard ? " [" : "",
           row->standard ? row->standard : "", row->standard ? "]" : "");
  }
}

static bool number(const char *name, const char *text, long min, long max, long *out)
{
  char *end;
  errno = 0;
  long v = strtol(text, &end, 10);
  if (end == text || *end || errno || v < min || v > max) {
    fprintf(stderr, "envgate worker: --%s takes a number from %ld to %ld\n", name, min, max);
    return false;
  }
  *out = v;
  return true;
}

static bool dialect(const char *text, enum ref_dialect *out)
{
  static const char *const names[] = {[REF_DIALECT_WS] = "ws", [REF_DIALECT_HTTP] = "http", [REF_DIALECT_BOTH] = "both"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(text, names[i]) == 0) {
      *out = (enum ref_dialect)i;
      return true;
    }
  fprintf(stderr, "envgate worker: --dialect is ws, http or both\n");
  return false;
}

static bool set(struct ref_options *o, enum option_id id, const char *argument)
{
  const char *name = rows[id].name;
  long v = 0;
  bool ok = true;
  switch (id) {
  case OPTION_LISTEN:
    o->listen = argument;
    break;
  case OPTION_DIALECT:
    return dialect(argument, &o->dialect);
  case OPTION_CAPACITY:
    ok = number(name, argument, 1, 1000000, &v);
    o->capacity = (uint32_t)v;
    break;
  case OPTION_DELAY_MS:
    ok = number(name, argument, 0, INT_MAX, &v);
    o->delay_ms = (uint32_t)v;
    break;
  case OPTION_REPLY_BYTES:
    ok = number(name, argument, 0, REPLY_BYTES_MAX, &v);
    o->reply_bytes = (size_t)v;
    break;
  case OPTION_FAULTS:
    o->faults = true;
    break;
  case OPTION_NO_READY:
    o->ready = false;
    break;
  case OPTION_BOOT_MS:
    ok = number(name, argument, 0, INT_MAX, &v);
    o->boot_ms = (uint32_t)v;
    break;
  case OPTION_EXIT_AFTER_MS:
    ok = number(name, argument, 0, INT_MAX, &v);
    o->exit_after_ms = v;
    break;
  case OPTION_EXIT_CODE:
    ok = number(name, argument, 0, 255, &v);
    o->exit_code = (int)v;
    break;
  case OPTION_HELP:
  case OPTION_COUNT:
    break;
  }
  return ok;
}

static bool set_defaults(struct ref_options *o)
{
  *o = (struct ref_options){.ready = true, .exit_after_ms = -1};
  for (int i = 0; i < OPTION_COUNT; i++)
    if (rows[i].standard && !set(o, (enum option_id)i, rows[i].standard))
      return false;
  return true;
}

enum ref_parse ref_options_parse(struct ref_options *o, int argc, char **argv)
{
  struct option options[OPTION_COUNT + 1] = {0};
  for (int i = 0; i < OPTION_COUNT; i++)
    options[i] = (struct option){rows[i].name, rows[i].argument ? required_argument : no_argument, NULL, i + 1};
  if (!set_defaults(o))
    return REF_USAGE;
  optind = 0; // glibc: start anew, also after main's own use of getopt
  int c;
  while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (c == OPTION_HELP + 1) {
      show_help();
      return REF_HELP_SHOWN;
    }
    if (c == '?' || !set(o, (enum option_id)(c - 1), optarg))
      return REF_USAGE;
  }
  if (optind == argc - 1)
    o->kind = ref_env_kind(argv[optind]);
  if (!o->kind) {
    fprintf(stderr, "envgate worker: name one environment: ");
    const struct ref_env_kind *kind;
    for (unsigned i = 0; (kind = ref_env_kind_at(i)); i++)
      fprintf(stderr, "%s%s", i ? ", " : "", kind->name);
    fprintf(stderr, "; --help says more\n");
    return REF_USAGE;
  }
  return REF_PARSED;
}
