// SPDX-License-Identifier: Apache-2.0
#include "auth/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

void peer_init(struct peer *p, const struct sockaddr *address)
{
  *p = (struct peer){0};
  char host[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    const struct sockaddr_in *in = (const void *)address;
    inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
    snprintf(p->address, sizeof p->address, "%s:%u", host, (unsigned)ntohs(in->sin_port));
    p->local = ntohl(in->sin_addr.s_addr) >> 24 == 127;
  } else if (address->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in = (const void *)address;
    inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
    snprintf(p->address, sizeof p->address, "[%s]:%u", host, (unsigned)ntohs(in->sin6_port));
    p->local = IN6_IS_ADDR_LOOPBACK(&in->sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&in->sin6_addr) && in->sin6_addr.s6_addr[12] == 127);
  } else {
    snprintf(p->address, sizeof p->address, "unix");
    p->local = true;
  }
}

// A name with NUL in it is two names to two readers, so it is none here. Neither is one with bytes that a file of credentials can't have.
static bool plain(struct str s)
{
  for (size_t i = 0; i < s.n; i++)
    if (s.p[i] <= ' ' || s.p[i] > '~')
      return false;
  return s.n > 0 && s.n <= PEER_NAME_MAX;
}

// False: out of memory.
static bool add(struct peer_names *names, const char *kind, struct str name)
{
  char *text;
  if (!plain(name) || names->n == PEER_NAMES_MAX)
    return true;
  if (asprintf(&text, "%s:%.*s", kind, STR_ARG(name)) < 0)
    return false;
  names->at[names->n++] = text;
  return true;
}

static struct str asn1(const ASN1_STRING *s)
{
  return (struct str){(const char *)ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s)};
}

static bool add_alternatives(struct peer_names *names, const X509 *cert)
{
  GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
  bool ok = true;
  for (int i = 0; ok && i < sk_GENERAL_NAME_num(all); i++) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
    if (name->type == GEN_URI)
      ok = add(names, "uri", asn1(name->d.uniformResourceIdentifier));
    else if (name->type == GEN_DNS)
      ok = add(names, "dns", asn1(name->d.dNSName));
  }
  GENERAL_NAMES_free(all);
  return ok;
}

// The last common name, which is the most specific.
static bool add_common_name(struct peer_names *names, const X509 *cert)
{
  const X509_NAME *subject = X509_get_subject_name(cert);
  int at = -1, last = -1;
  while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0)
    last = at;
  if (last < 0)
    return true;
  unsigned char *utf8 = NULL;
  int n = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
  bool ok = n < 0 || add(names, "cn", (struct str){(const char *)utf8, (size_t)n});
  OPENSSL_free(utf8);
  return ok;
}

bool peer_take_names(struct peer *p, const struct ssl_st *ssl)
{
  p->tls = true;
  const X509 *cert = SSL_get0_peer_certificate(ssl);
  if (!cert || SSL_get_verify_result(ssl) != X509_V_OK)
    return true;
  p->names = calloc(1, sizeof *p->names);
  return p->names && add_alternatives(p->names, cert) && add_common_name(p->names, cert);
}

void peer_move(struct peer *to, struct peer *from)
{
  *to = *from;
  from->names = NULL;
  from->token = NULL;
  from->generation = 0;
}

void peer_forget(struct peer *p)
{
  if (p->token)
    OPENSSL_cleanse(p->token, p->token_n);
  free(p->token);
  p->token = NULL;
  p->token_n = 0;
  p->generation = 0;
}

void peer_free(struct peer *p)
{
  peer_forget(p);
  for (size_t i = 0; p->names && i < p->names->n; i++)
    free(p->names->at[i]);
  free(p->names);
  p->names = NULL;
}
