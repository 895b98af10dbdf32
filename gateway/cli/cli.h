// SPDX-License-Identifier: Apache-2.0
// The command line: `envgate COMMAND [options]`. main.c picks the command.
//
// Exit codes: 0 well, 1 it failed, 2 the command line was wrong (one line on standard error says how).
#ifndef ENVGATE_CLI_CLI_H
#define ENVGATE_CLI_CLI_H

#include "config/config.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

// Each takes the command's own arguments; argv[0] is the command.

// The config that `serve` is asked for: the file, then the options over it. NULL with *exit_code set when there is nothing to serve.
struct config *cli_serve_config(int argc, char **argv, int *exit_code);

// `check FILE`, `check --schema`.
int cli_check(int argc, char **argv);

// `token new`.
int cli_token(int argc, char **argv);

// `docs options|metrics|reasons|schema`: what of docs/ is made from tables in the program.
int cli_docs(int argc, char **argv);

// `health [--live] [URL]`: whether a gateway answers and takes new sessions.
int cli_health(int argc, char **argv);

// Prints help: of the program (NULL) or of a command.
int cli_help(const char *command);

// Says what is wrong with the command line, in one line. Returns EXIT_USAGE.
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// A setting's name on the command line, without the "--": "log-level" for log_level.
struct cli_flag {
  char name[40];
};
struct cli_flag cli_flag(const char *key);

// Prints every mistake as "FILE:LINE: path: text".
void cli_print_mistakes(const char *file, const struct config_mistakes *mistakes);

#endif
