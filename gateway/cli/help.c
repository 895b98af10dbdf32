// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/remote.h"
#include "config/options.h"

static const char program_help[] =
    "envgate: a gateway between RL trainers (gRPC, Connect, HTTP/JSON) and environment workers (OpenEnv)\n"
    "\n"
    "usage: envgate COMMAND [options]\n"
    "\n"
    "  serve [--config FILE] [options]   run the gateway; without a FILE with the environments echo, cartpole and pixels\n"
    "  check FILE                        say what is wrong in a configuration file\n"
    "  check --schema                    print the file's JSON Schema\n"
    "  health [--live] [URL]             ask a running gateway whether it takes sessions\n"
    "  token new --principal P --scope S make a bearer token and its line for auth_file\n"
    "  worker ENVIRONMENT [options]      run one of the built-in workers: echo, cartpole or pixels\n";
static const char program_help_end[] =
    "\n"
    "  --help, --version\n"
    "\n"
    "`envgate COMMAND --help` tells more. Exit codes: 0 well, 1 failed, 2 wrong command line; 3 and 130 see `envgate workers --help`.\n";

static const char serve_help[] = "usage: envgate serve [--config FILE] [options]\n"
                                 "\n"
                                 "Runs the gateway until SIGTERM or SIGINT. Options win over the file.\n"
                                 "\n"
                                 "  --config FILE, -c FILE\n"
                                 "        The configuration file, in JSON; docs/OPTIONS.md describes it. Default: the built-in environments\n"
                                 "        echo, cartpole and pixels.\n";

static const char check_help[] = "usage: envgate check FILE\n"
                                 "       envgate check --schema\n"
                                 "\n"
                                 "Reads a configuration file and prints every mistake as FILE:LINE: path: text (exit code 1), or that there is\n"
                                 "none (0). With --schema, prints the JSON Schema of such a file.\n";

static const char health_help[] =
    "usage: envgate health [--live] [URL]\n"
    "\n"
    "Asks the gateway at URL (http://HOST:PORT or unix:/PATH; http://127.0.0.1:8080 if none is given) whether it takes new\n"
    "sessions (/readyz), or with --live whether it answers at all (/healthz). Exit code 0 if so, else 1, with the reason on\n"
    "standard error. For probes in images that have neither a shell nor curl.\n";

static const char token_help[] = "usage: envgate token new --principal NAME --scope agent|trainer|admin [options]\n"
                                 "\n"
                                 "Prints two lines: a new bearer token, which is shown nowhere else, and the line for auth_file, which has\n"
                                 "only its hash. The caller sends the token as \"authorization: Bearer TOKEN\".\n"
                                 "\n"
                                 "  --principal NAME       whose token it is: 1 to 64 letters, digits and . _ @ -\n"
                                 "  --scope SCOPE          agent: tools only. trainer: sessions of its own and environments. admin: all\n"
                                 "  --sessions N, --calls N, --calls-per-s N\n"
                                 "                         the principal's quota of sessions, calls at a time and calls a second. 0: no limit\n";

// The value's name in help: --log-level debug|info|warn|error.
static void print_value(const struct setting *s)
{
  if (s->type == SET_BOOL) {
    fputs("[=true|false]", stdout);
    return;
  }
  putchar(' ');
  if (s->values)
    for (int i = 0; s->values[i]; i++)
      printf("%s%s", i ? "|" : "", s->values[i]);
  else if (s->type == SET_STRING)
    fputs("TEXT", stdout);
  else if (s->type == SET_STRINGS)
    fputs("TEXT[,TEXT…]", stdout);
  else if (s->type == SET_SIZE)
    fputs("BYTES", stdout);
  else
    fputs(s->unit ? "SECONDS" : "N", stdout);
}

static void print_option(const struct setting *s)
{
  printf("  --%s", cli_flag(s->key).name);
  print_value(s);
  printf("\n        %s", s->help);
  if (s->form)
    printf(" As %s.", s->form);
  if (s->def)
    printf(" Default: %s.", s->def);
  putchar('\n');
}

int cli_help(const char *command)
{
  if (!command) {
    fputs(program_help, stdout);
    cli_remote_summaries();
    fputs(program_help_end, stdout);
  } else if (strcmp(command, "check") == 0)
    fputs(check_help, stdout);
  else if (strcmp(command, "health") == 0)
    fputs(health_help, stdout);
  else if (strcmp(command, "token") == 0)
    fputs(token_help, stdout);
  else {
    fputs(serve_help, stdout);
    for (int i = 0; i < SETTINGS_COUNT; i++)
      if (settings[i].scope == IN_GATEWAY)
        print_option(&settings[i]);
  }
  return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

int cli_usage(const char *command, const char *fmt, ...)
{
  va_list ap;
  fprintf(stderr, "envgate%s%s: ", command ? " " : "", command ? command : "");
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
  return EXIT_USAGE;
}
