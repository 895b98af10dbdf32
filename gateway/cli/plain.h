// SPDX-License-Identifier: Apache-2.0
// What a worker wrote, made fit for a terminal: escape sequences other than colours, and control characters other than newline and tab, are left
// out, so that a log can't move the cursor, change the title or answer for the user.
#ifndef ENVGATE_CLI_PLAIN_H
#define ENVGATE_CLI_PLAIN_H

#include "base/buf.h"

enum { PLAIN_SEQUENCE = 32 }; // a longer colour sequence is none

// Zeroed: at the beginning. A sequence may go over several pieces.
struct plain {
  enum { PLAIN_TEXT, PLAIN_ESCAPE, PLAIN_CONTROL, PLAIN_STRING, PLAIN_STRING_ESCAPE, PLAIN_SHORT } state;
  char sequence[PLAIN_SEQUENCE];
  size_t n; // of sequence
  bool c2;  // the last byte was 0xC2, which may begin a control character
};

// Appends what is left of `bytes`. False: out of memory.
bool plain_add(struct plain *p, struct str bytes, struct buf *out);

#endif
