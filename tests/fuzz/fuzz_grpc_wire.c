// SPDX-License-Identifier: Apache-2.0
// gRPC's own syntax: timeouts, content types, message framing in pieces, percent-encoding and base64. The first byte says how large the pieces are.
#include <stdint.h>
#include <stdlib.h>

#include "front/grpc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
  if (!ok)
    abort();
}

static void frames(struct str all, size_t step)
{
  struct grpc_frames f = {.max = 4096};
  size_t taken = 0, bodies = 0;
  while (all.n) {
    struct str in = {all.p, step < all.n ? step : all.n}, m;
    all = str_skip(all, in.n);
    taken += in.n;
    enum grpc_frame got;
    while ((got = grpc_frames_next(&f, &in, &m)) == GRPC_FRAME_MESSAGE) {
      check(m.n <= f.max);
      bodies += GRPC_PREFIX + m.n;
    }
    check(bodies <= taken);
    if (got != GRPC_FRAME_NONE)
      break;
    check(in.n == 0);
  }
  grpc_frames_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (!size)
    return 0;
  struct str s = {(const char *)data + 1, size - 1};
  nsec ns;
  enum codec codec;
  grpc_sniff(s);
  check(!grpc_timeout(s, &ns) || s.n <= 9);
  grpc_content_type(s, &codec);
  frames(s, data[0] ? data[0] : 1);
  struct buf b = {.max = 4096};
  grpc_percent_encode(s, &b);
  for (size_t i = 0; i < b.n; i++)
    check(b.p[i] >= 0x20 && b.p[i] <= 0x7E);
  buf_free(&b);
  grpc_base64(s, &b);
  buf_free(&b);
  return 0;
}
