// SPDX-License-Identifier: Apache-2.0
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdlib.h>

#include "front/tls_internal.h"
#include "runtime/log.h"

// TLS 1.2 only with forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
static const char CIPHERS[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

const char *tls_why(void)
{
  unsigned long error = ERR_peek_last_error();
  const char *why = error ? ERR_reason_error_string(error) : NULL;
  ERR_clear_error();
  return why ? why : "no reason was given";
}

// The gateway's order: HTTP/2 where the client has it. RFC 7301 section 3.2 has a client that offers neither refused.
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n, void *ctx)
{
  static const unsigned char ours[] = "\x02h2\x08http/1.1";
  (void)ssl;
  (void)ctx;
  unsigned char *chosen = NULL;
  if (SSL_select_next_proto(&chosen, out_n, ours, sizeof ours - 1, in, in_n) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

// Nobody is there to type one.
static int no_passphrase(char *to, int size, int writing, void *ctx)
{
  (void)to, (void)size, (void)writing, (void)ctx;
  return 0;
}

static bool fail(struct err *e, const char *option, const char *path)
{
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "%s: %s: %s", option, path, tls_why());
}

static bool use_client_ca(SSL_CTX *context, const struct config *c, struct err *e)
{
  static const unsigned char id[] = "envgate"; // without one, OpenSSL refuses to resume sessions with client certificates
  const char *path = c->tls_client_ca_file;
  STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
  if (!names)
    return fail(e, "tls_client_ca_file", path);
  SSL_CTX_set_client_CA_list(context, names);
  if (!SSL_CTX_load_verify_file(context, path) || !SSL_CTX_set_session_id_context(context, id, sizeof id - 1))
    return fail(e, "tls_client_ca_file", path);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (c->tls_client_cert == CLIENT_CERT_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
  return true;
}

static bool use_files(SSL_CTX *context, const struct config *c, struct err *e)
{
  const char *key = c->tls_key_file ? c->tls_key_file : c->tls_cert_file;
  if (SSL_CTX_use_certificate_chain_file(context, c->tls_cert_file) != 1)
    return fail(e, "tls_cert_file", c->tls_cert_file);
  if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1)
    return fail(e, "tls_key_file", key);
  return !c->tls_client_ca_file || use_client_ca(context, c, e);
}

SSL_CTX *tls_context_new(const struct config *c, struct err *e)
{
  ERR_clear_error();
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  if (!context) {
    err_nomem(e);
    return NULL;
  }
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                   SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_cipher_list(context, CIPHERS);
  // Idle connections hold no buffers; one read takes in all records that are there.
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  // Sessions are resumed by tickets, whose keys are the context's own: a new certificate or CA ends them all.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
  if (use_files(context, c, e))
    return context;
  SSL_CTX_free(context);
  return NULL;
}

// --- new files -----------------------------------------------------------------------------------------------------------------------------

struct news {
  struct task task;
  SSL_CTX *context;
};

static void on_news(struct reactor *r, struct task *t)
{
  struct news *news = CONTAINER_OF(t, struct news, task);
  if (r->tls) {
    SSL_CTX_free(r->tls->context);
    r->tls->context = news->context;
  } else {
    SSL_CTX_free(news->context);
  }
  free(news);
}

static bool tell(struct reactor *to, SSL_CTX *context)
{
  struct news *news = calloc(1, sizeof *news);
  if (!news)
    return false;
  SSL_CTX_up_ref(context);
  news->context = context;
  news->task.run = on_news;
  reactor_post(to, &news->task);
  return true;
}

static void on_changed(struct reload *l)
{
  struct tls_front *f = CONTAINER_OF(l, struct tls_front, reload);
  struct err e;
  SSL_CTX *context = tls_context_new(f->r->config, &e);
  bool told = context != NULL;
  for (int i = 0; told && i < f->r->count; i++)
    told = tell(f->r->all[i], context) || err_nomem(&e);
  SSL_CTX_free(context);
  if (told)
    log_event(f->r->log, LOG_INFO, "tls.reloaded", LF_C("cert_file", f->r->config->tls_cert_file));
  else
    log_event(f->r->log, LOG_ERROR, "tls.not_reloaded", LF_C("reason", e.msg));
}

bool tls_context_watch(struct tls_front *f)
{
  const struct config *c = f->r->config;
  f->reload.paths[0] = c->tls_cert_file;
  f->reload.paths[1] = c->tls_key_file;
  f->reload.paths[2] = c->tls_client_ca_file;
  f->reload.changed = on_changed;
  return reload_start(&f->reload, f->r);
}
