// SPDX-License-Identifier: Apache-2.0
// gRPC-Web's body: frames, perhaps in base64 and compressed, cut into pieces. The first byte says which and how. However it is cut, the messages are the same.
#include <stdint.h>
#include <stdlib.h>

#include "front/grpc_web_wire.h"
#include "front/grpc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX = 4096 };

// Appends the messages and how it ended.
static void take(struct grpc_frames *f, struct str bytes, struct buf *seen, bool *over)
{
  struct str message;
  struct err e;
  err_clear(&e);
  while (!*over && grpc_next_message(f, &bytes, &message, &e)) {
    if (message.n > MAX)
      abort();
    buf_char(seen, '|');
    if (message.n)
      buf_add(seen, message.p, message.n);
  }
  *over = *over || e.code != CODE_OK;
}

static void read_body(struct str body, size_t step, bool text, struct buf *seen)
{
  struct grpc_frames f = {.max = MAX, .allowed = GRPC_COMPRESSED};
  struct grpc_web_text decoder = {0};
  bool over = false;
  for (size_t at = 0; at < body.n && !over; at += step) {
    struct str piece = {body.p + at, step < body.n - at ? step : body.n - at};
    struct buf bytes = {0};
    if (text)
      over = !grpc_web_text_decode(&decoder, piece, &bytes);
    take(&f, text ? buf_view(&bytes) : piece, seen, &over);
    buf_free(&bytes);
  }
  grpc_frames_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  if (n < 2)
    return 0;
  struct str body = {(const char *)data + 1, n - 1};
  bool text = data[0] & 1;
  struct buf whole = {0}, cut = {0};
  read_body(body, body.n, text, &whole);
  read_body(body, (size_t)(data[0] >> 1) + 1, text, &cut);
  // What is no base64 spoils the piece that it is in: then one may have seen more than the other.
  size_t least = whole.n < cut.n ? whole.n : cut.n;
  if ((!text && whole.n != cut.n) || (least && memcmp(whole.p, cut.p, least) != 0))
    abort();
  buf_free(&whole);
  buf_free(&cut);
  return 0;
}
