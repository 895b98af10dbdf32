// SPDX-License-Identifier: Apache-2.0
// The options of `envgate serve`, from the table of settings.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "config/options.h"

// getopt's values: a row's index + ROW, and the two options that are no settings; all are past the characters that it returns by itself.
enum { OPTION_CONFIG = 256, OPTION_HELP, ROW };

struct flags {
  struct cli_flag names[SETTINGS_COUNT];
  struct option options[SETTINGS_COUNT + 3]; // the gateway's settings, --config, --help and the end
};

struct cli_flag cli_flag(const char *key)
{
  struct cli_flag flag;
  snprintf(flag.name, sizeof flag.name, "%s", key);
  for (char *p = flag.name; *p; p++)
    if (*p == '_')
      *p = '-';
  return flag;
}

static void add(struct flags *f, int *n, const char *name, int has_arg, int value)
{
  f->options[(*n)++] = (struct option){.name = name, .has_arg = has_arg, .val = value};
}

static void make_flags(struct flags *f)
{
  int n = 0;
  *f = (struct flags){0};
  for (int i = 0; i < SETTINGS_COUNT; i++) {
    const struct setting *s = &settings[i];
    if (s->scope != IN_GATEWAY)
      continue;
    f->names[i] = cli_flag(s->key);
    add(f, &n, f->names[i].name, s->type == SET_BOOL ? optional_argument : required_argument, ROW + i);
  }
  add(f, &n, "config", required_argument, OPTION_CONFIG);
  add(f, &n, "help", no_argument, OPTION_HELP);
}

// What the command line says. Values point into argv.
struct request {
  const char *file;
  const char *value[SETTINGS_COUNT]; // NULL: not given
  bool help;
};

static int bad_option(int argc, char **argv, int problem)
{
  const char *option = optind >= 1 && optind <= argc ? argv[optind - 1] : "";
  if (problem == ':')
    return cli_usage("serve", "%s needs a value", option);
  if (optopt && optopt < ROW + SETTINGS_COUNT && option[0] == '-' && option[1] == '-' && strchr(option, '='))
    return cli_usage("serve", "%s: there is no value for this option", option);
  return cli_usage("serve", "there is no option %s; see envgate serve --help", option);
}

static int read_flags(int argc, char **argv, struct request *q)
{
  struct flags flags;
  make_flags(&flags);
  optind = 0; // getopt_long begins anew
  opterr = 0;
  for (int o; (o = getopt_long(argc, argv, "+:c:h", flags.options, NULL)) != -1;) {
    if (o == OPTION_CONFIG || o == 'c')
      q->file = optarg;
    else if (o == OPTION_HELP || o == 'h')
      q->help = true;
    else if (o >= ROW && o < ROW + SETTINGS_COUNT)
      q->value[o - ROW] = optarg ? optarg : "true";
    else
      return bad_option(argc, argv, o);
  }
  if (optind < argc)
    return cli_usage("serve", "takes no argument %s; a file is given by --config FILE", argv[optind]);
  return EXIT_OK;
}

// Sets the options over the file's settings.
static int apply(const struct request *q, struct config *c)
{
  struct err e;
  for (int i = 0; i < SETTINGS_COUNT; i++) {
    if (!q->value[i] || setting_set(&settings[i], str_c(q->value[i]), c, &e))
      continue;
    if (e.code != CODE_INVALID_ARGUMENT) {
      fputs("envgate: out of memory\n", stderr);
      return EXIT_FAILED;
    }
    return cli_usage("serve", "--%s %s", cli_flag(settings[i].key).name, e.msg);
  }
  return EXIT_OK;
}

static struct config *load(const char *file, int *exit_code)
{
  struct config_mistakes mistakes = {0};
  struct config *c = file ? config_load(file, &mistakes) : config_default();
  if (!c) {
    cli_print_mistakes(file ? file : "envgate", &mistakes);
    *exit_code = EXIT_FAILED;
  }
  config_mistakes_free(&mistakes);
  return c;
}

struct config *cli_serve_config(int argc, char **argv, int *exit_code)
{
  struct request q = {0};
  *exit_code = read_flags(argc, argv, &q);
  if (*exit_code != EXIT_OK)
    return NULL;
  if (q.help) {
    *exit_code = cli_help("serve");
    return NULL;
  }
  struct config *c = load(q.file, exit_code);
  if (!c)
    return NULL;
  *exit_code = apply(&q, c);
  if (*exit_code == EXIT_OK)
    return c;
  config_free(c);
  return NULL;
}
