// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "config/schema.h"

void cli_print_mistakes(const char *file, const struct config_mistakes *mistakes)
{
  for (size_t i = 0; i < mistakes->n; i++) {
    const struct config_mistake *m = &mistakes->at[i];
    fprintf(stderr, "%s:", file);
    if (m->line)
      fprintf(stderr, "%d:", m->line);
    fprintf(stderr, " %s%s%s\n", m->path, m->path[0] ? ": " : "", m->text);
  }
  if (mistakes->n == 0)
    fprintf(stderr, "%s: out of memory\n", file);
}

static int print_schema(void)
{
  struct buf out = {0};
  bool ok = config_schema(&out) && fwrite(out.p, 1, out.n, stdout) == out.n && fflush(stdout) == 0;
  buf_free(&out);
  return ok ? EXIT_OK : EXIT_FAILED;
}

int cli_check(int argc, char **argv)
{
  if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
    return cli_help("check");
  if (argc == 2 && strcmp(argv[1], "--schema") == 0)
    return print_schema();
  if (argc != 2)
    return cli_usage("check", "takes one FILE, or --schema");
  if (argv[1][0] == '-')
    return cli_usage("check", "there is no option %s", argv[1]);
  struct config_mistakes mistakes;
  struct config *c = config_load(argv[1], &mistakes);
  if (!c) {
    cli_print_mistakes(argv[1], &mistakes);
    config_mistakes_free(&mistakes);
    return EXIT_FAILED;
  }
  bool ok = printf("%s: ok, %zu environment%s\n", argv[1], c->n_envs, c->n_envs == 1 ? "" : "s") > 0 && fflush(stdout) == 0;
  config_free(c);
  return ok ? EXIT_OK : EXIT_FAILED;
}
