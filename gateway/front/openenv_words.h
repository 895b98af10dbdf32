// SPDX-License-Identifier: Apache-2.0
// OpenEnv's protocol as a gateway reads it of clients and answers in a worker's stead, without I/O.
#ifndef ENVGATE_FRONT_OPENENV_WORDS_H
#define ENVGATE_FRONT_OPENENV_WORDS_H

#include "base/buf.h"
#include "base/err.h"
#include "worker/protocol.h"

// A client's message. Spans lie in it.
struct openenv_words {
  bool valid; // JSON
  bool close; // {"type":"close"} and nothing else: the one that the gateway carries out itself
  struct str type;
};

// Reads a client's message, whatever it is, and fills in how a worker is asked the same: by the message itself, and for a plain HTTP worker by its parts, where it has
// them. `max_depth` is for the latter.
void openenv_words_read(struct str message, int max_depth, struct openenv_words *words, struct worker_request *q);

// OpenEnv's codes of errors.
extern const char OPENENV_INVALID_JSON[], OPENENV_UNKNOWN_TYPE[], OPENENV_VALIDATION_ERROR[], OPENENV_EXECUTION_ERROR[], OPENENV_CAPACITY_REACHED[],
    OPENENV_FACTORY_ERROR[], OPENENV_SESSION_ERROR[];

// Appends an error as a worker writes it. False when out of memory.
bool openenv_error(struct buf *out, const char *code, struct str message);
// The same for CAPACITY_REACHED, with how many sessions there may be, all of which there are.
bool openenv_full(struct buf *out, int64_t sessions);
// The same for what a plain HTTP worker can't be asked (worker_request.words_only).
bool openenv_cannot(struct buf *out, const struct openenv_words *words);

// The code for an error of the gateway's.
const char *openenv_code(const struct err *e);

#endif
