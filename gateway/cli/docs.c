// SPDX-License-Identifier: Apache-2.0
// The parts of docs/ that are made from tables in the program. tests/integration/test_docs.py compares.
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/remote.h"
#include "config/options.h"
#include "config/schema.h"
#include "reference/options.h"
#include "runtime/metrics.h"

#define MADE "<!-- Made by `envgate docs %s`. Change the table in %s instead. -->\n"

static const char options_intro[] =
    "# Options\n\n" MADE "\n"
    "`envgate serve --config FILE` reads a JSON file; [`config.schema.json`](config.schema.json) is its JSON Schema, and `envgate check FILE`\n"
    "finds every mistake in it. A name that is not listed here is a mistake. Units of sizes are `KiB`, `MiB` and\n"
    "`GiB`. A complete file:\n\n"
    "```json\n"
    "{\n"
    "  \"listen\": \"127.0.0.1:8080\",\n"
    "  \"environments\": {\n"
    "    \"echo\": {\"builtin\": {\"environment\": \"echo\"}},\n"
    "    \"chess\": {\n"
    "      \"description\": \"Chess by OpenSpiel\",\n"
    "      \"max_workers\": 4,\n"
    "      \"env_vars\": {\"OPENSPIEL_GAME\": \"chess\"},\n"
    "      \"docker\": {\"image\": \"openspiel-env:latest\", \"memory_bytes\": \"2GiB\"}\n"
    "    }\n"
    "  }\n"
    "}\n"
    "```\n";

static const char gateway_intro[] =
    "\n## The gateway\n\n"
    "At the top of the file. Each is also an option of `envgate serve`, which wins over the file: `log_level` is `--log-level`. Items of a list have "
    "commas\n"
    "between them there.\n\n";
static const char inline_intro[] =
    "\n## Inline sources\n\n"
    "`inline_sources` says what callers may have launched that is no environment of the file (`CreateSession.source`). Without it: nothing. Items of "
    "its lists\n"
    "are whole names, or beginnings with `*` behind them. `common` has settings as an environment has, for all of them: say, `max_workers`, or "
    "`docker` with its\n"
    "`memory_bytes`. Whoever can reach the gateway may do what is allowed here: a project run by uv runs as the gateway's user.\n\n"
    "```json\n"
    "\"inline_sources\": {\n"
    "  \"images\": [\"registry.example.com/envs/*\"],\n"
    "  \"spaces\": [\"openenv/*\"],\n"
    "  \"common\": {\"max_workers\": 4, \"docker\": {\"memory_bytes\": \"2GiB\"}}\n"
    "}\n"
    "```\n\n";
static const char environment_intro[] =
    "\n## Environments\n\n"
    "`environments` is an object of environments by name: 1 to 63 of `a`-`z`, `0`-`9` and `-`, with no `-` at either end. Each has these settings,\n"
    "and one object that is named as its provider.\n\n";

static const char worker_intro[] =
    "\n## The built-in worker\n\n"
    "`envgate worker ENVIRONMENT [options]` serves `echo`, `cartpole` or `pixels` by OpenEnv's protocol. `builtin.args` are such options;\n"
    "the gateway sets `--listen` and `--capacity` itself. An action of `echo` may have `data`, any JSON, whose bytes come back in the "
    "observation.\n\n";

// Text in a cell of a table.
static bool put_cell(struct buf *out, const char *text)
{
  bool ok = true;
  for (const char *p = text; ok && *p; p++)
    ok = (*p != '|' || buf_char(out, '\\')) && buf_char(out, *p);
  return ok;
}

static bool put_setting(struct buf *out, const struct setting *s)
{
  bool ok = buf_printf(out, "| `%s` | ", s->key) && setting_expects(s, out);
  if (ok && s->required)
    ok = buf_str(out, STR(" | required | "));
  else if (ok && s->def && s->def[0])
    ok = buf_printf(out, " | `%s` | ", s->def);
  else
    ok = ok && buf_str(out, STR(" | | "));
  return ok && put_cell(out, s->help) && buf_str(out, STR(" |\n"));
}

static bool put_settings(struct buf *out, enum setting_scope scope, const char *provider)
{
  bool ok = buf_str(out, STR("| Setting | Value | Default | What it does |\n|---|---|---|---|\n"));
  for (int i = 0; ok && i < SETTINGS_COUNT; i++)
    if (setting_in(&settings[i], scope, provider))
      ok = put_setting(out, &settings[i]);
  return ok;
}

static bool put_options(struct buf *out)
{
  bool ok = buf_printf(out, options_intro, "options", "gateway/config/options.c") && buf_str(out, str_c(gateway_intro)) &&
            put_settings(out, IN_GATEWAY, NULL) && buf_str(out, str_c(environment_intro)) && put_settings(out, IN_ENVIRONMENT, NULL);
  for (int i = 0; ok && i < PROVIDER_COUNT; i++)
    ok = buf_printf(out, "\n### `%s`\n\n", provider_names[i]) && put_settings(out, IN_ENVIRONMENT, provider_names[i]);
  ok = ok && buf_str(out, str_c(inline_intro)) && put_settings(out, IN_INLINE, NULL);
  return ok && buf_str(out, str_c(worker_intro)) && reference_options_markdown(out);
}

static bool put_metrics(struct buf *out)
{
  return buf_printf(out, "# Metrics\n\n" MADE "\n`GET /metrics` answers in Prometheus' text format.\n\n", "metrics", "gateway/runtime/metrics.h") &&
         metrics_markdown(out);
}

static bool put_reasons(struct buf *out)
{
#define X(name, help) buf_str(out, STR("| `" #name "` | " help " |\n")) &&
  return ERR_REASONS(X) true;
#undef X
}

static bool put_cli(struct buf *out)
{
  return buf_printf(out, "# The command line\n\n" MADE "\n", "cli", "gateway/cli/remote.c") &&
         buf_str(out, STR("`envgate serve`, `envgate check` and `envgate worker` are described in [OPTIONS.md](OPTIONS.md).\n")) &&
         cli_remote_markdown(out);
}

int cli_docs(int argc, char **argv)
{
  static const struct {
    const char *name;
    bool (*put)(struct buf *out);
  } documents[] = {{"options", put_options}, {"metrics", put_metrics}, {"reasons", put_reasons}, {"schema", config_schema}, {"cli", put_cli}};
  for (size_t i = 0; argc == 2 && i < sizeof documents / sizeof *documents; i++) {
    if (strcmp(argv[1], documents[i].name) != 0)
      continue;
    struct buf out = {0};
    bool ok = documents[i].put(&out) && fwrite(out.p, 1, out.n, stdout) == out.n && fflush(stdout) == 0;
    buf_free(&out);
    return ok ? EXIT_OK : EXIT_FAILED;
  }
  return cli_usage("docs", "takes one of options, metrics, reasons, schema and cli");
}
