// SPDX-License-Identifier: Apache-2.0
// Text or a message whose large parts lie elsewhere, in shared bytes, and are not copied: own bytes in a buf, and where between them the pieces go.
#ifndef ENVGATE_BASE_SPLICE_H
#define ENVGATE_BASE_SPLICE_H

#include "base/buf.h"

struct splice {
  size_t at; // it goes before this one of the own bytes
  struct str bytes;
};

// Zeroed, it is empty and ready. For one thread, as shared bytes are.
struct splices {
  size_t min; // shorter pieces are not worth it
  struct splice *at;
  size_t n, cap;
  size_t bytes; // of all pieces
  struct shared **held;
  size_t n_held, cap_held;
  size_t last; // of the held: where the last piece lay
};

// Takes a reference to bytes in which pieces may lie. False: out of memory, and pieces of them are copied.
bool splices_hold(struct splices *s, struct shared *bytes);

// Notes `piece` as what comes behind the first `at` own bytes. False: it must be copied, as it is short, lies in nothing that is held, or memory is out.
bool splices_add(struct splices *s, size_t at, struct str piece);

// Lets go of everything and empties it; `min` stays.
void splices_free(struct splices *s);

// Copies the pieces into the own bytes, and lets go of them. False: out of memory, and nothing has changed.
bool splices_join(struct splices *s, struct buf *own);

// Where a reader of own bytes and pieces is. Zeroed: at the start.
struct splice_place {
  size_t own;   // own bytes read
  size_t piece; // which piece is next or being read …
  size_t in;    // … and how much of it has been
};

// The next bytes in one place, at most `max` of them, and steps behind them. "" at the end. *piece: they are a piece's.
struct str splices_next(const struct splices *s, struct str own, struct splice_place *at, size_t max, bool *piece);

#endif
