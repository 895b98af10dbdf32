// SPDX-License-Identifier: Apache-2.0
// Frames and the upgrade's reply from a hostile worker, and frames from a hostile client. The first byte says in what pieces the rest comes.
#include <stdint.h>
#include <stdlib.h>

#include "upstream/ws_frames.h"
#include "upstream/ws_handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_MESSAGE = 5000 };

static void require(bool truth)
{
  if (!truth)
    abort();
}

// FNV-1a over all events, so that reading in pieces can be compared with reading at once.
static uint64_t mix(uint64_t h, const void *p, size_t n)
{
  const unsigned char *s = p;
  for (size_t i = 0; i < n; i++)
    h = (h ^ s[i]) * 0x100000001b3u;
  return h;
}

static uint64_t read_all(struct ws_coders *coders, struct str in, size_t step)
{
  struct ws_frames f = {.coders = coders, .max_message = MAX_MESSAGE, .takes_binary = coders->server};
  uint64_t h = 0xcbf29ce484222325u;
  while (in.n) {
    size_t size = in.n < step ? in.n : step;
    struct str piece = {in.p, size};
    in = str_skip(in, size);
    for (;;) {
      struct ws_event ev;
      enum ws_event_type type = ws_frames_read(&f, &piece, &ev);
      if (type == WS_EVENT_NONE)
        break;
      h = mix(mix(h, &type, sizeof type), &ev.code, sizeof ev.code);
      h = mix(h, ev.payload.p, ev.payload.n);
      if (type == WS_EVENT_MESSAGE) {
        require(ev.message->buf.n <= MAX_MESSAGE && !ev.message->buf.p[ev.message->buf.n]);
        h = mix(h, ev.message->buf.p, ev.message->buf.n);
        shared_unref(ev.message);
      }
    }
    require(!piece.n && f.message.n <= MAX_MESSAGE);
  }
  ws_frames_free(&f);
  return h;
}

static void read_frames(struct str in, size_t step, bool server)
{
  struct ws_coders coders;
  require(ws_coders_init(&coders));
  coders.server = server;
  uint64_t whole = read_all(&coders, in, in.n ? in.n : 1);
  require(read_all(&coders, in, step) == whole);
  ws_coders_free(&coders);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  if (!n)
    return 0;
  struct str in = {(const char *)data + 1, n - 1};
  read_frames(in, (size_t)data[0] + 1, false);
  read_frames(in, (size_t)data[0] + 1, true);

  static const struct ws_accept accept = {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="};
  size_t head = 0;
  int status = 0;
  const char *problem = NULL;
  if (ws_handshake_reply(in, &accept, &head, &status, &problem) == WS_HANDSHAKE_OK)
    require(head <= in.n && status == 101);
  return 0;
}
