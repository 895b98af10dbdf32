// SPDX-License-Identifier: Apache-2.0
// The file of credentials (auth_file): who is known by what, and what each may do. A line each:
//
//   # comment
//   sha256:HEX  principal=NAME scope=SCOPE [sessions=N] [calls=N] [calls_per_s=N]     a bearer token, by its SHA-256
//   uri:URI     principal=NAME scope=SCOPE …                                          a client certificate, by a URI or DNS name of its subject's
//   dns:NAME    principal=NAME scope=SCOPE …                                          alternative names or its common name
//   cn:NAME     principal=NAME scope=SCOPE …
//
// A principal may have several lines, with a scope each; its limits stand in one of them, or are those of the options. 0 is no limit.
#ifndef ENVGATE_AUTH_CREDENTIALS_H
#define ENVGATE_AUTH_CREDENTIALS_H

#include "auth/peer.h"
#include "auth/quota.h"
#include "base/err.h"
#include "base/str.h"

// What a credential may be used for. Each contains the one before, but for ANYONE, which is a method's that asks for no credential.
enum scope {
  SCOPE_AGENT = 1,   // an agent's tools, never the episode
  SCOPE_TRAINER = 2, // sessions and environments
  SCOPE_ADMIN = 4,   // everybody's sessions, workers
  SCOPE_ANYONE = 8,
};

enum {
  TOKEN_HASH = 32,
  PRINCIPAL_NAME_MAX = 64,
  CREDENTIALS_MAX = 100000,
};

// Lives as long as the gateway, once it has been in the file, so that sessions may point to their owner.
struct principal {
  struct principal *next;
  struct quota quota;
  char name[PRINCIPAL_NAME_MAX + 1];
};

// A line of the file.
struct credential {
  unsigned char hash[TOKEN_HASH]; // a token's
  char *name;                     // a certificate's, with its kind: "uri:spiffe://a/b"; NULL: a token
  char principal[PRINCIPAL_NAME_MAX + 1];
  unsigned scopes; // the scope's and those that it contains
  bool limited;    // it has limits
  struct quota_limits limits;
  struct identity who; // set by who loads it
};

struct credentials {
  struct credential *at; // tokens by hash, then certificates by name
  size_t n, tokens;
};

// Parses a file's text. Limits that a line does not have are those of `defaults`. NULL: `e` names the line and the fault, never its text. Unlike a configuration's, one fault is enough.
struct credentials *credentials_parse(struct str text, const struct quota_limits *defaults, struct err *e);
// NULL is fine.
void credentials_free(struct credentials *c);

// The token of "Bearer TOKEN" (RFC 6750); "" of "". False: it is something else.
bool token_of_bearer(struct str authorization, struct str *token);

// A token's hash.
void token_hash(struct str token, unsigned char hash[TOKEN_HASH]);

// The credential of a token or of a certificate's name; NULL: unknown.
const struct credential *credentials_token(const struct credentials *c, struct str token);
const struct credential *credentials_name(const struct credentials *c, const char *name);

// 1 to 64 letters, digits and . _ @ -
bool principal_name_ok(struct str name);

// "agent", "trainer" or "admin" with those that it contains; 0: none of them.
unsigned scope_parse(struct str name);

// The scopes that a method takes, by its path; 0: nobody has said, so nobody may call it.
unsigned scopes_of_method(struct str path);

#endif
