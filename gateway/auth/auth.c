// SPDX-License-Identifier: Apache-2.0
#include "auth/auth.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/file.h"
#include "config/config.h"
#include "runtime/log.h"
#include "runtime/metrics.h"
#include "runtime/reload.h"

enum { FILE_MAX = 16 << 20 };

// The credentials of a file as it was at a time; read-only, and shared by the reactors.
struct known {
  _Atomic int refs;
  uint64_t generation; // from 1
  struct credentials *credentials;
};

struct auth {
  struct reactor *r;
  struct known *known;
  // Reactor 0's:
  struct principal *principals; // all that there ever were
  uint64_t generation;
  struct reload reload;
};

static void known_unref(struct known *k)
{
  if (!k || atomic_fetch_sub(&k->refs, 1) > 1)
    return;
  credentials_free(k->credentials);
  free(k);
}

// --- the file, on reactor 0 ------------------------------------------------------------------------------------------------------------------

static struct principal *principal_of(struct auth *a, const char *name)
{
  struct principal *p = a->principals;
  while (p && strcmp(p->name, name) != 0)
    p = p->next;
  if (p || !(p = calloc(1, sizeof *p)))
    return p;
  memcpy(p->name, name, strlen(name));
  p->next = a->principals;
  a->principals = p;
  return p;
}

static bool bind_principals(struct auth *a, struct credentials *c, struct err *e)
{
  for (size_t i = 0; i < c->n; i++) {
    struct principal *p = principal_of(a, c->at[i].principal);
    if (!p)
      return err_nomem(e);
    c->at[i].who = (struct identity){p, c->at[i].scopes};
  }
  for (size_t i = 0; i < c->n; i++)
    quota_limit(&c->at[i].who.principal->quota, &c->at[i].limits);
  return true;
}

static struct credentials *read_file(const struct config *config, struct err *e)
{
  struct buf text = {.max = FILE_MAX};
  struct credentials *c = NULL;
  struct err fault;
  const struct quota_limits defaults = {config->quota_sessions, config->quota_calls, config->quota_calls_per_s};
  if (!file_read(config->auth_file, &text))
    err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "auth_file: %s: %s", config->auth_file, strerror(errno));
  else if (!(c = credentials_parse(text.p ? buf_view(&text) : STR(""), &defaults, &fault)))
    err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "auth_file: %s: %s", config->auth_file, fault.msg);
  if (text.p)
    OPENSSL_cleanse(text.p, text.n);
  buf_free(&text);
  return c;
}

static struct known *load(struct auth *a, struct err *e)
{
  struct known *k = calloc(1, sizeof *k);
  if (!k) {
    err_nomem(e);
    return NULL;
  }
  atomic_init(&k->refs, 1);
  k->generation = ++a->generation;
  k->credentials = read_file(a->r->config, e);
  if (k->credentials && bind_principals(a, k->credentials, e))
    return k;
  known_unref(k);
  return NULL;
}

struct news {
  struct task task;
  struct known *known;
};

static void on_news(struct reactor *r, struct task *t)
{
  struct news *news = CONTAINER_OF(t, struct news, task);
  struct known *old = news->known;
  if (r->auth) {
    old = r->auth->known;
    r->auth->known = news->known;
  }
  known_unref(old);
  free(news);
}

static bool tell(struct reactor *to, struct known *known)
{
  struct news *news = calloc(1, sizeof *news);
  if (!news)
    return false;
  atomic_fetch_add(&known->refs, 1);
  news->known = known;
  news->task.run = on_news;
  reactor_post(to, &news->task);
  return true;
}

static void on_changed(struct reload *l)
{
  struct auth *a = CONTAINER_OF(l, struct auth, reload);
  struct err e;
  struct known *k = load(a, &e);
  bool told = k != NULL;
  for (int i = 0; told && i < a->r->count; i++)
    told = tell(a->r->all[i], k) || err_nomem(&e);
  if (told)
    log_event(a->r->log, LOG_INFO, "auth.reloaded", LF_C("file", a->r->config->auth_file), LF_INT("credentials", k->credentials->n));
  else
    log_event(a->r->log, LOG_ERROR, "auth.not_reloaded", LF_C("reason", e.msg));
  known_unref(k);
}

bool auth_init(struct reactor *r, struct err *e)
{
  if (!r->config->auth_file)
    return true;
  struct auth *a = calloc(1, sizeof *a);
  if (!a)
    return err_nomem(e);
  r->auth = a;
  a->r = r;
  if (r->index > 0) {
    a->known = r->all[0]->auth->known;
    atomic_fetch_add(&a->known->refs, 1);
    return true;
  }
  a->reload.paths[0] = r->config->auth_file;
  a->reload.changed = on_changed;
  if (!reload_start(&a->reload, r))
    return err_nomem(e);
  a->known = load(a, e);
  return a->known != NULL;
}

void auth_free(struct reactor *r)
{
  struct auth *a = r->auth;
  if (!a)
    return;
  reload_stop(&a->reload);
  known_unref(a->known);
  for (struct principal *p = a->principals, *next; p; p = next) {
    next = p->next;
    free(p);
  }
  free(a);
  r->auth = NULL;
}

// --- ways to know a caller -----------------------------------------------------------------------------------------------------------------

// One way: the identity of a caller who shows `token` ("": none) on a connection. NULL: it does not know them. Each works by what is in memory, and so must one
// that has to ask somebody else (Kubernetes' TokenReview): it answers for tokens that it has asked for before. For others it needs what is not there yet, a third
// answer, "later", and the three callers of auth_check waiting for it: call_method (a call that does not begin before, a client stream's messages kept), http_may
// and websocket_admit.
struct authenticator {
  const char *name;
  const struct credential *(*knows)(const struct credentials *c, const struct peer *peer, struct str token);
};

static const struct credential *by_token(const struct credentials *c, const struct peer *peer, struct str token)
{
  (void)peer;
  return token.n ? credentials_token(c, token) : NULL;
}

// Who shows a token is who the token says, or nobody.
static const struct credential *by_certificate(const struct credentials *c, const struct peer *peer, struct str token)
{
  for (size_t i = 0; !token.n && peer->names && i < peer->names->n; i++) {
    const struct credential *found = credentials_name(c, peer->names->at[i]);
    if (found)
      return found;
  }
  return NULL;
}

static const struct authenticator authenticators[] = {{"token", by_token}, {"certificate", by_certificate}};

// Looks them up and remembers. False: nobody knows them.
static bool recognize(const struct known *known, struct peer *peer, struct str token)
{
  const struct credential *found = NULL;
  peer_forget(peer);
  for (size_t i = 0; !found && i < sizeof authenticators / sizeof *authenticators; i++)
    found = authenticators[i].knows(known->credentials, peer, token);
  if (!found)
    return false;
  peer->who = found->who;
  peer->token = token.n ? malloc(token.n) : NULL;
  if (token.n && !peer->token)
    return true; // not remembered
  if (token.n)
    memcpy(peer->token, token.p, token.n);
  peer->token_n = token.n;
  peer->generation = known->generation;
  return true;
}

static bool remembered(const struct known *known, const struct peer *peer, struct str token)
{
  return peer->generation == known->generation && peer->token_n == token.n && (!token.n || CRYPTO_memcmp(peer->token, token.p, token.n) == 0);
}

// --- the check -----------------------------------------------------------------------------------------------------------------------------

static bool refuse(struct reactor *r, struct err *e, const char *reason, const char *why)
{
  metric_add(r->metrics, METRIC_auth_refused_total, 1);
  return err_set(e, CODE_UNAUTHENTICATED, reason, "%s", why);
}

static bool identify(struct reactor *r, struct peer *peer, struct str authorization, struct err *e)
{
  const struct known *known = r->auth->known;
  struct str token;
  if (!token_of_bearer(authorization, &token))
    return refuse(r, e, REASON_CREDENTIALS_UNKNOWN, "the authorization must be \"Bearer TOKEN\"");
  if (remembered(known, peer, token) || recognize(known, peer, token))
    return true;
  if (token.n)
    return refuse(r, e, REASON_CREDENTIALS_UNKNOWN, "the token is not known here; it may have been withdrawn");
  if (peer->names)
    return refuse(r, e, REASON_CREDENTIALS_UNKNOWN, "no principal has the client certificate's names");
  return refuse(r, e, REASON_CREDENTIALS_MISSING, "the call needs a credential: the header \"authorization: Bearer TOKEN\", or a client certificate");
}

bool auth_check(struct reactor *r, struct peer *peer, struct str authorization, unsigned scopes, struct identity *who, struct err *e)
{
  struct peer nobody = {0};
  *who = (struct identity){0};
  if (!r->auth || (scopes & SCOPE_ANYONE))
    return true;
  bool ok = identify(r, peer ? peer : &nobody, authorization, e);
  if (ok)
    *who = peer ? peer->who : nobody.who;
  peer_forget(&nobody);
  if (!ok || (who->scopes & scopes))
    return ok;
  metric_add(r->metrics, METRIC_auth_refused_total, 1);
  return err_set(e, CODE_PERMISSION_DENIED, REASON_SCOPE_DENIED, "principal %s may not do this: it takes the scope %s", who->principal->name,
                 scopes & SCOPE_AGENT     ? "agent"
                 : scopes & SCOPE_TRAINER ? "trainer"
                                          : "admin");
}
