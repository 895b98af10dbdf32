// SPDX-License-Identifier: Apache-2.0
// Percent-encoding of URLs (RFC 3986, section 2.1).
#ifndef ENVGATE_BASE_PERCENT_H
#define ENVGATE_BASE_PERCENT_H

#include "base/str.h"

struct percent_decoding {
  bool plus_is_space; // as in queries
  bool keep_slash;    // %2F stays as it is
};

// Decodes `text` to `to`, which has room for text.n bytes, and sets *n. False: a "%" without two hexadecimal digits behind it.
bool percent_decode(struct str text, struct percent_decoding how, char *to, size_t *n);

#endif
