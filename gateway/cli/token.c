// SPDX-License-Identifier: Apache-2.0
// `envgate token new`: a bearer token and its line for auth_file.
#include <getopt.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "auth/credentials.h"
#include "base/id.h"
#include "cli/cli.h"

enum { TOKEN_RANDOM = 52 }; // characters of 5 bits: 260 bits

struct token_request {
  const char *principal, *scope;
  const char *limits[3]; // as in limit_names
  bool help;
};
static const char *const limit_names[] = {"sessions", "calls", "calls_per_s"};

static int read_options(int argc, char **argv, struct token_request *q)
{
  enum { PRINCIPAL = 1, SCOPE, HELP, LIMIT };
  static const struct option options[] = {{"principal", required_argument, NULL, PRINCIPAL},
                                          {"scope", required_argument, NULL, SCOPE},
                                          {"sessions", required_argument, NULL, LIMIT},
                                          {"calls", required_argument, NULL, LIMIT + 1},
                                          {"calls-per-s", required_argument, NULL, LIMIT + 2},
                                          {"help", no_argument, NULL, HELP},
                                          {0}};
  optind = 0; // getopt_long begins anew
  opterr = 0;
  for (int o; (o = getopt_long(argc, argv, "+:h", options, NULL)) != -1;) {
    if (o == PRINCIPAL)
      q->principal = optarg;
    else if (o == SCOPE)
      q->scope = optarg;
    else if (o >= LIMIT && o <= LIMIT + 2)
      q->limits[o - LIMIT] = optarg;
    else if (o == HELP || o == 'h')
      q->help = true;
    else
      return cli_usage("token", o == ':' ? "%s needs a value" : "there is no option %s; see envgate token --help", argv[optind - 1]);
  }
  return optind == argc ? EXIT_OK : cli_usage("token", "takes no argument %s", argv[optind]);
}

static bool put_line(const struct token_request *q, struct str token, struct buf *line)
{
  unsigned char hash[TOKEN_HASH];
  token_hash(token, hash);
  bool ok = buf_str(line, STR("sha256:"));
  for (size_t i = 0; ok && i < sizeof hash; i++)
    ok = buf_printf(line, "%02x", hash[i]);
  ok = ok && buf_printf(line, " principal=%s scope=%s", q->principal, q->scope);
  for (size_t i = 0; ok && i < sizeof q->limits / sizeof *q->limits; i++)
    ok = !q->limits[i] || buf_printf(line, " %s=%s", limit_names[i], q->limits[i]);
  return ok;
}

// Prints it, if the gateway would take the line.
static int print(const struct token_request *q)
{
  char token[sizeof "envgate_" + TOKEN_RANDOM] = "envgate_";
  id_random(NULL, token + strlen(token), TOKEN_RANDOM);
  struct buf line = {0};
  struct err e;
  const struct quota_limits none = {0};
  int exit_code = EXIT_FAILED;
  struct credentials *c = NULL;
  if (!put_line(q, str_c(token), &line))
    fputs("envgate: out of memory\n", stderr);
  else if (memchr(line.p, '\n', line.n) || !(c = credentials_parse(buf_view(&line), &none, &e)))
    exit_code = cli_usage("token", "%s", memchr(line.p, '\n', line.n) ? "an option has a line break" : str_c(e.msg).p + strlen("line 1: "));
  else if (printf("%s\n%.*s\n", token, STR_ARG(buf_view(&line))) > 0 && fflush(stdout) == 0)
    exit_code = EXIT_OK;
  OPENSSL_cleanse(token, sizeof token);
  credentials_free(c);
  buf_free(&line);
  return exit_code;
}

int cli_token(int argc, char **argv)
{
  struct token_request q = {0};
  if (argc > 1 && strcmp(argv[1], "new") == 0) {
    argc--;
    argv++;
  } else if (argc < 2 || (strcmp(argv[1], "--help") != 0 && strcmp(argv[1], "-h") != 0)) {
    return cli_usage("token", "must be followed by new; see envgate token --help");
  }
  int exit_code = read_options(argc, argv, &q);
  if (exit_code != EXIT_OK)
    return exit_code;
  if (q.help)
    return cli_help("token");
  if (!q.principal || !q.scope)
    return cli_usage("token", "--principal and --scope are both needed");
  if (!principal_name_ok(str_c(q.principal)))
    return cli_usage("token", "--principal must be 1 to 64 letters, digits and . _ @ -");
  return print(&q);
}
