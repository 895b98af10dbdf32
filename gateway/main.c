// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "providers/supervise.h"
#include "reference/reference.h"
#include "serve.h"

static int run_serve(int argc, char **argv)
{
  int exit_code;
  struct config *c = cli_serve_config(argc, argv, &exit_code);
  if (!c)
    return exit_code;
  exit_code = serve(c);
  config_free(c);
  return exit_code;
}

static int print_version(void)
{
  return printf("envgate %s\n", ENVGATE_VERSION) > 0 && fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

int main(int argc, char **argv)
{
  const char *command = argc > 1 ? argv[1] : "";
  if (!*command)
    return cli_usage(NULL, "no command given; see envgate --help");
  if (strcmp(command, "serve") == 0)
    return run_serve(argc - 1, argv + 1);
  if (strcmp(command, "check") == 0)
    return cli_check(argc - 1, argv + 1);
  if (strcmp(command, "health") == 0)
    return cli_health(argc - 1, argv + 1);
  if (strcmp(command, "worker") == 0)
    return reference_main(argc - 1, argv + 1);
  if (strcmp(command, "token") == 0)
    return cli_token(argc - 1, argv + 1);
  if (strcmp(command, "supervise") == 0)
    return supervise_main(argc, argv);
  if (strcmp(command, "booting") == 0)
    return booting_main(argc, argv);
  if (strcmp(command, "docs") == 0)
    return cli_docs(argc - 1, argv + 1);
  if (strcmp(command, "--version") == 0 || strcmp(command, "-V") == 0)
    return print_version();
  if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0)
    return cli_help(NULL);
  return cli_usage(NULL, "there is no command %s; see envgate --help", command);
}
