// SPDX-License-Identifier: Apache-2.0
#include "base/gzip.h"

#include <limits.h>
#include <zlib.h>

enum {
  GZIP_WINDOW = 15 + 16, // 32 KiB, and gzip's header rather than zlib's
  PIECE = 16 << 10,
};

// zlib's pointer to its input is const when ZLIB_CONST is defined only, and it does not write there.
static Bytef *unconst(const char *p)
{
  union {
    const char *from;
    Bytef *to;
  } u = {p};
  return u.to;
}

// Room for the next piece of what comes out: a piece, or what is left below max.
static enum gzip_result make_room(z_stream *z, struct buf *out)
{
  size_t left = out->max ? out->max - out->n : PIECE;
  size_t want = out->n > PIECE ? out->n : PIECE;
  want = out->max && want > left ? left : want;
  if (!want)
    return GZIP_TOO_LARGE;
  char *to = buf_reserve(out, want);
  if (!to)
    return GZIP_NOMEM;
  z->next_out = (Bytef *)to;
  z->avail_out = (uInt)want;
  return GZIP_OK;
}

// At max, a single byte more tells a message that fits from one that does not.
static enum gzip_result at_max(z_stream *z)
{
  Bytef one;
  z->next_out = &one;
  z->avail_out = 1;
  int rc = inflate(z, Z_NO_FLUSH);
  if (!z->avail_out)
    return GZIP_TOO_LARGE;
  return rc == Z_STREAM_END && !z->avail_in ? GZIP_OK : GZIP_BAD;
}

static enum gzip_result inflate_all(z_stream *z, struct buf *out)
{
  for (;;) {
    enum gzip_result room = make_room(z, out);
    if (room == GZIP_TOO_LARGE)
      return at_max(z);
    if (room != GZIP_OK)
      return room;
    uInt offered = z->avail_out;
    int rc = inflate(z, Z_NO_FLUSH);
    out->n += offered - z->avail_out;
    if (rc == Z_STREAM_END)
      return z->avail_in ? GZIP_BAD : GZIP_OK;
    if (rc == Z_MEM_ERROR)
      return GZIP_NOMEM;
    if (rc != Z_OK || (!z->avail_in && z->avail_out))
      return GZIP_BAD;
  }
}

enum gzip_result gzip_inflate(struct str in, struct buf *out)
{
  if (in.n > UINT_MAX)
    return GZIP_TOO_LARGE;
  z_stream z = {.next_in = unconst(in.p), .avail_in = (uInt)in.n};
  if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
    return GZIP_NOMEM;
  enum gzip_result result = inflate_all(&z, out);
  inflateEnd(&z);
  return result;
}

bool gzip_deflate(struct str in, struct buf *out)
{
  enum { MEMORY_LEVEL = 8 };
  z_stream z = {.next_in = unconst(in.p), .avail_in = (uInt)in.n};
  if (in.n > UINT_MAX || deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
    return false;
  size_t bound = deflateBound(&z, in.n);
  char *to = bound <= UINT_MAX ? buf_reserve(out, bound) : NULL;
  bool ok = false;
  if (to) {
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)bound;
    ok = deflate(&z, Z_FINISH) == Z_STREAM_END;
    out->n += ok ? bound - z.avail_out : 0;
  }
  deflateEnd(&z);
  return ok;
}
