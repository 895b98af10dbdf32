// SPDX-License-Identifier: Apache-2.0
// Path templates: "/v1/{name=sessions/*}", "/v1/{session=sessions/*}/reset", "/v1/sessions:stepBatch", "/v1/{name=sessions/*}:close".
//
// A "*" takes one segment and "**" (only at the end) the rest, so a template either fits or not without ever going back.
#include "rpc/rest.h"

// The custom verb of a template with its colon (":close"), or "". Colons in variables don't count.
static struct str custom_verb(struct str template)
{
  for (size_t i = template.n; i > 0; i--) {
    char c = template.p[i - 1];
    if (c == ':')
      return str_skip(template, i - 1);
    if (c == '}' || c == '/')
      break;
  }
  return (struct str){NULL, 0};
}

// What a path must end in to fit: the template's text behind its last variable or star.
static struct str ending(struct str template)
{
  size_t i = template.n;
  while (i > 0 && template.p[i - 1] != '}' && template.p[i - 1] != '*')
    i--;
  return str_skip(template, i);
}

static size_t segment_length(struct str path)
{
  const char *slash = memchr(path.p, '/', path.n);
  return slash ? (size_t)(slash - path.p) : path.n;
}

// Takes what a pattern without variables ("sessions/*", "**", "v1/") matches at the start of *path. False: it doesn't.
static bool match_pattern(struct str pattern, struct str *path)
{
  while (pattern.n) {
    if (str_eq(pattern, STR("**"))) {
      *path = str_skip(*path, path->n);
      return true;
    }
    if (pattern.p[0] == '*') {
      size_t n = path->n ? segment_length(*path) : 0;
      if (!n)
        return false;
      *path = str_skip(*path, n);
    } else {
      if (!path->n || path->p[0] != pattern.p[0])
        return false;
      *path = str_skip(*path, 1);
    }
    pattern = str_skip(pattern, 1);
  }
  return true;
}

// Matches the variable that `template` begins with ("{name=sessions/*}…") and passes both.
static bool match_variable(struct str *template, struct str *path, struct rest_match *m)
{
  const char *close = memchr(template->p, '}', template->n);
  if (!close || m->vars == REST_MAX_VARS)
    return false;
  struct str field = {template->p + 1, (size_t)(close - template->p) - 1};
  struct str pattern = STR("*");
  const char *equals = memchr(field.p, '=', field.n);
  if (equals) {
    pattern = str_skip(field, (size_t)(equals - field.p) + 1);
    field.n = (size_t)(equals - field.p);
  }
  const char *start = path->p;
  if (!match_pattern(pattern, path))
    return false;
  m->var[m->vars].field = field;
  m->var[m->vars].text = (struct str){start, (size_t)(path->p - start)};
  m->var[m->vars].whole = str_eq(pattern, STR("*"));
  m->vars++;
  *template = str_skip(*template, (size_t)(close - template->p) + 1);
  return true;
}

bool rest_match_template(struct str template, struct str path, struct rest_match *m)
{
  if (!str_ends(path, ending(template))) // most don't
    return false;
  struct str verb = custom_verb(template);
  template.n -= verb.n;
  path.n -= verb.n;
  m->vars = 0;
  while (template.n) {
    const char *brace = memchr(template.p, '{', template.n);
    struct str plain = {template.p, brace ? (size_t)(brace - template.p) : template.n};
    if (!match_pattern(plain, &path))
      return false;
    template = str_skip(template, plain.n);
    if (template.n && !match_variable(&template, &path, m))
      return false;
  }
  return path.n == 0;
}

static void add_verb(struct buf *allow, const char *verb)
{
  if (!allow)
    return;
  if (allow->n)
    buf_str(allow, STR(", "));
  buf_str(allow, str_c(verb));
}

// Whether there are methods for the path at all; `allow` (may be NULL) gets their verbs.
static bool find_other_verbs(const struct rpc_api *api, struct str path, struct buf *allow)
{
  bool any = false;
  struct rest_match match;
  for (int i = 0; i < api->method_count; i++)
    if (api->methods[i].http_path && rest_match_template(str_c(api->methods[i].http_path), path, &match)) {
      any = true;
      add_verb(allow, api->methods[i].http_verb);
    }
  return any;
}

bool rest_find(const struct rpc_api *api, struct str verb, struct str path, struct rest_match *m, bool *other_verb, struct buf *allow)
{
  if (str_eq(verb, STR("HEAD")))
    verb = STR("GET");
  bool found = false, found_custom = false;
  for (int i = 0; i < api->method_count; i++) {
    const struct rpc_method *method = &api->methods[i];
    struct rest_match match;
    if (!method->http_path || !str_eq(str_c(method->http_verb), verb) || !rest_match_template(str_c(method->http_path), path, &match))
      continue;
    // "*" would take "x:close" whole, so a template that names the custom verb goes before one that doesn't.
    bool custom = custom_verb(str_c(method->http_path)).n > 0;
    if (found && !(custom && !found_custom))
      continue;
    found = true;
    found_custom = custom;
    match.api = api;
    match.method = method;
    *m = match;
  }
  *other_verb = !found && find_other_verbs(api, path, allow);
  return found;
}
