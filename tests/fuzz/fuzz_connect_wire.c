// SPDX-License-Identifier: Apache-2.0
// Connect's query of a call by GET, and its content types and timeouts, of any bytes.
#include <stdint.h>
#include <stdlib.h>

#include "front/connect_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  struct str in = {(const char *)data, n};
  struct arena a;
  arena_init(&a, 1 << 20);
  struct connect_get get = {0};
  bool unsupported = false, stream;
  enum codec codec;
  nsec timeout;
  struct err e;
  if (connect_query(in, &a, &get, &unsupported, &e) && get.message.n > n)
    abort(); // decoding makes nothing longer
  connect_content_type(in, &stream, &codec);
  if (connect_timeout(in, &timeout) && timeout > 9999999999 * NSEC_PER_MS)
    abort();
  arena_free(&a);
  return 0;
}
