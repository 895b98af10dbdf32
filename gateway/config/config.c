// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "config/options.h"
#include "config/read.h"
#include "config/report.h"

enum { FILE_MAX = 1 << 20 };

static const char default_file[] =
    "{\"environments\": {"
    "\"echo\": {\"description\": \"Answers with what it is sent.\", \"builtin\": {\"environment\": \"echo\"}, \"sessions_per_worker\": 64},"
    "\"cartpole\": {\"description\": \"Balances a pole on a cart.\", \"builtin\": {\"environment\": \"cartpole\"}, \"sessions_per_worker\": 64},"
    "\"pixels\": {\"description\": \"Shows frames of 84 by 84 pixels.\", \"builtin\": {\"environment\": \"pixels\"}, \"sessions_per_worker\": 64}}}";

// The path of this program, for starting it as a worker; stays right when the working directory changes.
static char *own_program(void)
{
  char path[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  return n <= 0 || (size_t)n >= sizeof path ? strdup("/proc/self/exe") : strndup(path, (size_t)n);
}

static struct config *config_new(void)
{
  struct config *c = calloc(1, sizeof *c);
  if (!c)
    return NULL;
  c->self = own_program();
  if (c->self && settings_default(IN_GATEWAY, c) && settings_default(IN_INLINE, c) && settings_default(IN_ENVIRONMENT, &c->inline_common))
    return c;
  config_free(c);
  return NULL;
}

static struct config *finish(struct config *c, struct report *r)
{
  buf_free(&r->path);
  if (!r->failed && r->to->n == 0)
    return c;
  config_free(c);
  if (r->failed)
    config_mistakes_free(r->to);
  return NULL;
}

struct config *config_parse(struct str text, struct config_mistakes *mistakes)
{
  struct report r = {.to = mistakes};
  *mistakes = (struct config_mistakes){0};
  struct config *c = config_new();
  if (!c)
    return NULL;
  if (text.n > FILE_MAX)
    report_add(&r, NULL, "is larger than 1 MiB");
  else
    config_read(text, c, &r);
  return finish(c, &r);
}

struct config *config_load(const char *path, struct config_mistakes *mistakes)
{
  struct buf text = {.max = FILE_MAX + 1}; // one more, so that a longer file shows
  struct report r = {.to = mistakes};
  *mistakes = (struct config_mistakes){0};
  if (!file_read(path, &text) && errno != EFBIG) {
    report_add(&r, NULL, "can't be read: %s", strerror(errno));
    buf_free(&text);
    return finish(NULL, &r);
  }
  struct config *c = config_parse(text.p ? buf_view(&text) : STR(""), mistakes);
  buf_free(&text);
  return c;
}

struct config *config_default(void)
{
  struct config_mistakes mistakes;
  struct config *c = config_parse(str_c(default_file), &mistakes);
  config_mistakes_free(&mistakes);
  return c;
}

const struct env_config *config_env(const struct config *c, struct str name)
{
  for (size_t i = 0; i < c->n_envs; i++)
    if (str_eq(str_c(c->envs[i].name), name))
      return &c->envs[i];
  return NULL;
}

void config_mistakes_free(struct config_mistakes *m)
{
  for (size_t i = 0; i < m->n; i++) {
    free(m->at[i].path);
    free(m->at[i].text);
  }
  free(m->at);
  *m = (struct config_mistakes){0};
}

void config_free(struct config *c)
{
  if (!c)
    return;
  for (size_t i = 0; i < c->n_envs; i++) {
    settings_free(IN_ENVIRONMENT, &c->envs[i]);
    free(c->envs[i].name);
  }
  free(c->envs);
  settings_free(IN_GATEWAY, c);
  settings_free(IN_INLINE, c);
  settings_free(IN_ENVIRONMENT, &c->inline_common);
  free(c->self);
  free(c);
}
