// SPDX-License-Identifier: Apache-2.0
// Binary messages: what is taken is written again as something that is taken, of the size that protobuf-c finds. The first byte chooses the message.
#include <envgate/v1/session_service.pb-c.h>
#include <google/protobuf/descriptor.pb-c.h>
#include <google/protobuf/struct.pb-c.h>
#include <google/rpc/error_details.pb-c.h>
#include <google/rpc/status.pb-c.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/api.h"
#include "transcode/transcode.h"

enum { DEPTH = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
    &google__rpc__status__descriptor,      &envgate__v1__step_request__descriptor,
    &envgate__v1__step_result__descriptor, &google__protobuf__value__descriptor,
    &google__rpc__error_info__descriptor,  &envgate__v1__session__descriptor,
    &google__rpc__bad_request__descriptor, &google__protobuf__source_code_info__descriptor,
};

static void check(bool holds)
{
  if (!holds)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (!size)
    return 0;
  const ProtobufCMessageDescriptor *desc = types[data[0] % (sizeof types / sizeof *types)];
  const struct transcode_options options = {.max_depth = DEPTH, .types = &envgate_api.types};
  struct str bytes = {(const char *)data + 1, size - 1};
  struct arena a;
  struct buf out = {0};
  struct err e = {0};
  arena_init(&a, 256 << 20);
  const ProtobufCMessage *m = proto_decode(desc, bytes, DEPTH, &a, &e);
  if (m) {
    json_encode(m, &options, &out, &e);
    out.n = 0;
    check(proto_encode(m, &out, &e) && out.n == protobuf_c_message_get_packed_size(m) && proto_decode(desc, buf_view(&out), DEPTH, &a, &e));
  }
  buf_free(&out);
  arena_free(&a);
  return 0;
}
