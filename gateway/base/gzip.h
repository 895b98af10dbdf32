// SPDX-License-Identifier: Apache-2.0
// gzip (RFC 1952) of whole messages, by zlib.
#ifndef ENVGATE_BASE_GZIP_H
#define ENVGATE_BASE_GZIP_H

#include "base/buf.h"

enum gzip_result {
  GZIP_OK,
  GZIP_TOO_LARGE, // more than out->max
  GZIP_BAD,       // no gzip, cut off, or something behind its end
  GZIP_NOMEM,
};

// Appends what `in` holds. Memory grows with what comes out, never past out->max, whatever `in` promises.
enum gzip_result gzip_inflate(struct str in, struct buf *out);

// Appends `in` compressed, fast rather than small. False: out of memory with nothing added, or over out->max.
bool gzip_deflate(struct str in, struct buf *out);

#endif
