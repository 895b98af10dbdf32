// SPDX-License-Identifier: Apache-2.0
#include "cli/remote.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "cli/plain.h"
#include "envgate/v1/launch.pb-c.h"
#include "transcode/transcode.h"

static const char default_server[] = "http://127.0.0.1:8080";

enum command { WORKERS, SESSIONS, LOGS, PRELOAD, DRAIN, STOP, COMMAND_COUNT };

struct command_row {
  const char *name, *argument; // NULL: none
  const char *collection;      // that the argument's resource name may have before it
  const char *summary, *help;
  int (*run)(struct client *c, const struct remote_args *a);
};

static const struct command_row commands[COMMAND_COUNT] = {
    [WORKERS] = {"workers", NULL, NULL, "list the workers of a running gateway",
                 "Lists the workers: what they are at, how many sessions they have, and why they ended.", remote_workers},
    [SESSIONS] = {"sessions", NULL, NULL, "list its sessions", "Lists the sessions. Renews no lease.", remote_sessions},
    [LOGS] = {"logs", "WORKER", "workers/", "print what a worker wrote, and follow it",
              "Prints what a worker has written to its standard output and error, as much as the gateway keeps, also for a while after the worker's "
              "end. On a "
              "terminal escape sequences other than colours are left out. What was lost on the way is told on standard error.",
              remote_logs},
    [PRELOAD] = {"preload", "ENVIRONMENT", "environments/", "get workers ready before they are asked for",
                 "Pulls the image or installs the project, and launches workers until as many are ready. On a terminal a bar shows how far that is, "
                 "elsewhere a line each time it gets further. Interrupted, what was launched goes on.",
                 remote_preload},
    [DRAIN] = {"drain", "WORKER", "workers/", "give a worker no new sessions, and stop it after its last",
               "Gives a worker no new sessions, and has it stopped when its last has ended. Does not wait for that.", remote_drain},
    [STOP] = {"stop", "WORKER", "workers/", "stop a worker now", "Stops a worker now. Its sessions are lost.", remote_stop},
};

#define ON(command) (1U << (command))
#define ON_ALL (ON(COMMAND_COUNT) - 1)

struct option_row {
  const char *name;
  const char *argument; // NULL: none
  unsigned commands;
  char letter;   // 0: none
  size_t offset; // in struct remote_args: a const char * with an argument, else a bool
  const char *help;
};

#define TEXT(field) offsetof(struct remote_args, field)
static const struct option_row options[] = {
    {"server", "URL", ON_ALL, 's', TEXT(server),
     "Where the gateway is: http://HOST:PORT, https://HOST:PORT or unix:/PATH. Default: $ENVGATE_SERVER, else http://127.0.0.1:8080."},
    {"json", NULL, ON_ALL, 0, TEXT(json), "Print JSON for programs: each object on a line of its own, as the REST API has it (docs/API.md)."},
    {"environment", "NAME", ON(WORKERS) | ON(SESSIONS), 'e', TEXT(environment), "Only those of this environment."},
    {"all", NULL, ON(WORKERS), 'a', TEXT(all), "Also workers that have ended and are still remembered."},
    {"follow", NULL, ON(LOGS), 'f', TEXT(follow), "Go on with what comes, until the worker has ended."},
    {"tail", "N", ON(LOGS), 'n', TEXT(tail), "Begin with the last N lines. Default: all that is kept."},
    {"timestamps", NULL, ON(LOGS), 't', TEXT(timestamps), "Put before each line when it came (UTC)."},
    {"workers", "N", ON(PRELOAD), 'w', TEXT(workers), "How many workers are to be ready, those that are included. Default: 1."},
    {"timeout", "SECONDS", ON(PRELOAD), 0, TEXT(timeout), "Wait no longer than that. Default: for as long as it takes."},
};
enum { OPTION_COUNT = sizeof options / sizeof *options, OPTION_HELP = 1000, OPTION_FIRST = 1001 };

static const char exit_codes[] =
    "Exit codes: 0 well, 1 the gateway's answer was an error (standard error has it), 2 wrong command line, 3 the gateway\n"
    "could not be reached or the connection broke off, 130 interrupted.\n";

// --- help ----------------------------------------------------------------------------------------------------------------------------------

static bool has(enum command command, const struct option_row *o)
{
  return o->commands & ON(command);
}

// "-f, --follow", "--server URL".
static bool put_name(struct buf *out, const struct option_row *o)
{
  return (!o->letter || buf_printf(out, "-%c, ", o->letter)) &&
         buf_printf(out, "--%s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
}

static bool put_usage(struct buf *out, const struct command_row *row)
{
  return buf_printf(out, "envgate %s [options]%s%s", row->name, row->argument ? " " : "", row->argument ? row->argument : "");
}

static int show_help(enum command command)
{
  struct buf out = {0};
  const struct command_row *row = &commands[command];
  bool ok = buf_str(&out, STR("usage: ")) && put_usage(&out, row) && buf_printf(&out, "\n\n%s\n\n", row->help);
  for (int i = 0; ok && i < OPTION_COUNT; i++)
    if (has(command, &options[i]))
      ok = buf_str(&out, STR("  ")) && put_name(&out, &options[i]) && buf_printf(&out, "\n        %s\n", options[i].help);
  ok = ok && buf_printf(&out, "\n%s", exit_codes) && remote_write(buf_view(&out));
  buf_free(&out);
  return ok ? EXIT_OK : EXIT_FAILED;
}

void cli_remote_summaries(void)
{
  for (int i = 0; i < COMMAND_COUNT; i++) {
    char usage[64];
    snprintf(usage, sizeof usage, "%s%s%s", commands[i].name, commands[i].argument ? " " : "", commands[i].argument ? commands[i].argument : "");
    printf("  %-33s %s\n", usage, commands[i].summary);
  }
}

bool cli_remote_markdown(struct buf *out)
{
  bool ok = buf_printf(
      out,
      "These ask a running gateway, by its REST API; `--server` or `ENVGATE_SERVER` says which. They print tables for people, and JSON for\n"
      "programs with `--json`. Where the gateway wants a credential, `ENVGATE_TOKEN` has the bearer token. WORKER is a worker's id (`w1`, or "
      "`workers/w1`), ENVIRONMENT an environment's name.\n\n%s",
      exit_codes);
  for (int c = 0; ok && c < COMMAND_COUNT; c++) {
    ok = buf_str(out, STR("\n## ")) && put_usage(out, &commands[c]) && buf_printf(out, "\n\n%s\n\n| Option | |\n| --- | --- |\n", commands[c].help);
    for (int i = 0; ok && i < OPTION_COUNT; i++)
      if (has((enum command)c, &options[i]))
        ok = buf_str(out, STR("| `")) && put_name(out, &options[i]) && buf_printf(out, "` | %s |\n", options[i].help);
  }
  return ok;
}

// --- the command line ------------------------------------------------------------------------------------------------------------------------

static void set(struct remote_args *a, const struct option_row *o, const char *value)
{
  char *place = (char *)a + o->offset;
  if (o->argument)
    *(const char **)(void *)place = value;
  else
    *(bool *)(void *)place = true;
}

static int bad_option(const char *command, int problem, int argc, char **argv)
{
  const char *option = optind >= 1 && optind <= argc ? argv[optind - 1] : "";
  if (problem == ':')
    return cli_usage(command, "%s needs a value", option);
  return cli_usage(command, "there is no option %s; see envgate %s --help", option, command);
}

// getopt's tables for one command.
static void make_tables(enum command command, struct option longs[OPTION_COUNT + 2], char shorts[2 * OPTION_COUNT + 8])
{
  int n = 0;
  char *s = shorts;
  *s++ = ':';
  *s++ = 'h';
  for (int i = 0; i < OPTION_COUNT; i++) {
    const struct option_row *o = &options[i];
    if (!has(command, o))
      continue;
    longs[n++] = (struct option){.name = o->name, .has_arg = o->argument ? required_argument : no_argument, .val = OPTION_FIRST + i};
    if (o->letter)
      *s++ = o->letter;
    if (o->letter && o->argument)
      *s++ = ':';
  }
  *s = '\0';
  longs[n++] = (struct option){.name = "help", .has_arg = no_argument, .val = OPTION_HELP};
  longs[n] = (struct option){0};
}

static const struct option_row *of_letter(enum command command, int letter)
{
  for (int i = 0; i < OPTION_COUNT; i++)
    if (has(command, &options[i]) && options[i].letter && options[i].letter == letter)
      return &options[i];
  return NULL;
}

// EXIT_OK, or what is wrong; *help when that is all that is wanted.
static int read_options(enum command command, int argc, char **argv, struct remote_args *a, bool *help)
{
  struct option longs[OPTION_COUNT + 2];
  char shorts[2 * OPTION_COUNT + 8];
  make_tables(command, longs, shorts);
  optind = 0; // getopt_long begins anew
  opterr = 0;
  for (int o; (o = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
    const struct option_row *row = o >= OPTION_FIRST && o < OPTION_FIRST + OPTION_COUNT ? &options[o - OPTION_FIRST] : of_letter(command, o);
    if (row)
      set(a, row, optarg);
    else if (o == 'h' || o == OPTION_HELP)
      *help = true;
    else
      return bad_option(commands[command].name, o, argc, argv);
  }
  return EXIT_OK;
}

static int read_argument(enum command command, int argc, char **argv, struct remote_args *a)
{
  const struct command_row *row = &commands[command];
  if (optind + (row->argument ? 1 : 0) < argc)
    return cli_usage(row->name, "takes no argument %s", argv[argc - 1]);
  if (!row->argument)
    return EXIT_OK;
  if (optind >= argc)
    return cli_usage(row->name, "needs a %s", row->argument);
  a->what = argv[optind];
  if (row->collection && str_starts(str_c(a->what), str_c(row->collection)))
    a->what += strlen(row->collection);
  return a->what && *a->what ? EXIT_OK : cli_usage(row->name, "needs a %s", row->argument);
}

static bool is_number(const char *text, bool fraction)
{
  char *end;
  errno = 0;
  double v = strtod(text, &end);
  return *text && strspn(text, fraction ? "0123456789." : "0123456789") == strlen(text) && end != text && !*end && v <= 2147483647;
}

static int check(const char *command, const struct remote_args *a)
{
  if (*a->tail && !is_number(a->tail, false))
    return cli_usage(command, "--tail takes a whole number, not %s", a->tail);
  if (*a->workers && (!is_number(a->workers, false) || strspn(a->workers, "0") == strlen(a->workers)))
    return cli_usage(command, "--workers takes a whole number from 1, not %s", a->workers);
  if (*a->timeout && !is_number(a->timeout, true))
    return cli_usage(command, "--timeout takes a number of seconds, not %s", a->timeout);
  return EXIT_OK;
}

static int run_command(enum command command, int argc, char **argv)
{
  struct remote_args a = {.server = "", .environment = "", .tail = "", .workers = "", .timeout = "", .what = ""};
  bool help = false;
  int exit_code = read_options(command, argc, argv, &a, &help);
  if (exit_code == EXIT_OK && help)
    return show_help(command);
  if (exit_code == EXIT_OK)
    exit_code = read_argument(command, argc, argv, &a);
  if (exit_code == EXIT_OK)
    exit_code = check(commands[command].name, &a);
  if (exit_code != EXIT_OK)
    return exit_code;
  const char *from_environment = getenv("ENVGATE_SERVER");
  if (!*a.server)
    a.server = from_environment && *from_environment ? from_environment : default_server;
  if (str_starts(str_c(a.environment), STR("environments/")))
    a.environment += strlen("environments/");
  struct err e;
  struct client *c = client_open(a.server, getenv("ENVGATE_TOKEN"), &e); // not an option: command lines can be read by all
  if (!c)
    return e.code == CODE_INVALID_ARGUMENT ? cli_usage(commands[command].name, "%s", e.msg) : remote_end(NULL, CLIENT_UNREACHED, &e);
  exit_code = commands[command].run(c, &a);
  client_close(c);
  return exit_code;
}

bool cli_remote(int argc, char **argv, int *exit_code)
{
  for (int i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(argv[0], commands[i].name) != 0)
      continue;
    *exit_code = run_command((enum command)i, argc, argv);
    return true;
  }
  return false;
}

// --- what the commands share -----------------------------------------------------------------------------------------------------------------

int remote_end(const struct client *c, enum client_result result, const struct err *e)
{
  if (result == CLIENT_DONE)
    return EXIT_OK;
  if (result == CLIENT_INTERRUPTED)
    return EXIT_INTERRUPTED;
  struct buf text = {0};
  const char *reason = c ? client_reason(c) : "";
  if (plain_add(&(struct plain){0}, str_c(e->msg), &text)) // it may hold a worker's last output
    fprintf(stderr, "envgate: %.*s%s%s%s\n", STR_ARG(buf_view(&text)), *reason ? " (" : "", reason, *reason ? ")" : "");
  buf_free(&text);
  return result == CLIENT_REFUSED ? EXIT_FAILED : EXIT_UNREACHED;
}

ProtobufCMessage *remote_decode(const ProtobufCMessageDescriptor *type, struct str json, struct arena *a, struct err *e)
{
  // A newer gateway may say more than this program knows.
  const struct transcode_options o = {.max_depth = 64, .types = &envgate_api.types, .ignore_unknown = true};
  struct err why;
  ProtobufCMessage *m = json_decode(type, json, &o, a, &why);
  if (!m)
    err_set(e, CODE_INTERNAL, NULL, "the answer is none of a gateway's: %.200s", why.msg);
  return m;
}

static double mib(int64_t bytes)
{
  return (double)bytes / 1048576;
}

void remote_progress(const Envgate__V1__LaunchProgress *p, char *text, size_t room)
{
  static const char *const words[] = {"", "waiting for its turn", "pulling", "installing", "starting", "booting"};
  const char *word = p->phase >= 0 && (size_t)p->phase < sizeof words / sizeof *words ? words[p->phase] : "launching";
  if (p->layers && p->bytes)
    snprintf(text, room, "%s %d/%d layers, %.1f/%.1f MiB", word, p->layers_done, p->layers, mib(p->bytes_done), mib(p->bytes));
  else if (p->layers)
    snprintf(text, room, "%s %d/%d layers", word, p->layers_done, p->layers);
  else if (p->bytes)
    snprintf(text, room, "%s %.1f/%.1f MiB", word, mib(p->bytes_done), mib(p->bytes));
  else
    snprintf(text, room, "%s", word);
}

bool remote_write(struct str bytes)
{
  if (fwrite(bytes.p, 1, bytes.n, stdout) == bytes.n && fflush(stdout) == 0)
    return true;
  fprintf(stderr, "envgate: standard output: %s\n", strerror(errno));
  return false;
}
