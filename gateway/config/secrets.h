// SPDX-License-Identifier: Apache-2.0
// Values by reference, {"file": PATH} and {"env": NAME} in the configuration: read when a worker is launched, so that a secret is in no configuration file and
// can change while the gateway runs. Errors name the reference and never hold a value.
#ifndef ENVGATE_CONFIG_SECRETS_H
#define ENVGATE_CONFIG_SECRETS_H

#include <stdatomic.h>

#include "config/config.h"

// The largest value that a reference may have.
enum { SECRET_MAX = 65536 };

// Pairs whose values are all here; `source` still says where each came from. Shared by whoever keeps them, on any thread.
struct secrets {
  atomic_uint refs;
  struct pairs pairs;
};

// Reads what the setting `key` of an environment ("env_vars", "headers") refers to. A file's line end at its end is not part of the value. NULL with `e` set:
// FAILED_PRECONDITION (WORKER_START_FAILED) when a file or variable is not there or holds what the setting may not have. One reference is the caller's.
struct secrets *secrets_read(const char *key, const struct pairs *from, struct err *e);

struct secrets *secrets_ref(struct secrets *s); // NULL is fine
void secrets_unref(struct secrets *s);          // the last one wipes the values; NULL is fine

#endif
