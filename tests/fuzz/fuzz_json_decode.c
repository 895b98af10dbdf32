// SPDX-License-Identifier: Apache-2.0
// JSON to messages and back: what is taken can be written, and what was written is taken again as the same. The first byte chooses the message.
#include <envgate/v1/session_service.pb-c.h>
#include <google/protobuf/descriptor.pb-c.h>
#include <google/protobuf/struct.pb-c.h>
#include <google/rpc/error_details.pb-c.h>
#include <google/rpc/status.pb-c.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/json.h"
#include "transcode/transcode.h"

enum { DEPTH = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
    &google__rpc__status__descriptor,
    &envgate__v1__step_request__descriptor,
    &envgate__v1__reset_request__descriptor,
    &envgate__v1__session__descriptor,
    &google__protobuf__struct__descriptor,
    &google__rpc__error_info__descriptor,
    &google__protobuf__field_options__descriptor,
    &envgate__v1__list_sessions_response__descriptor,
};

static const struct transcode_options options = {.max_depth = DEPTH, .types = &envgate_api.types, .extras_field = "options"};

static void check(bool holds)
{
  if (!holds)
    abort();
}

static void round_trip(const ProtobufCMessageDescriptor *desc, const ProtobufCMessage *m, struct arena *a)
{
  struct buf once = {0}, twice = {0}, wire = {0};
  struct err e = {0};
  // An Any nests by one more level on the way out than its type's URL does on the way in.
  const struct transcode_options deeper = {.max_depth = DEPTH + 2, .types = &envgate_api.types};
  if (json_encode(m, &options, &once, &e)) {
    check(json_check(buf_view(&once), JSON_DEPTH_MAX, "", NULL, &e));
    m = json_decode(desc, buf_view(&once), &deeper, a, &e);
    check(m && json_encode(m, &deeper, &twice, &e));
    check(str_eq(buf_view(&once), buf_view(&twice)));
    check(proto_encode(m, &wire, &e) && proto_decode(desc, buf_view(&wire), DEPTH + 2, a, &e));
  }
  buf_free(&once);
  buf_free(&twice);
  buf_free(&wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (!size)
    return 0;
  const ProtobufCMessageDescriptor *desc = types[data[0] % (sizeof types / sizeof *types)];
  struct str text = {(const char *)data + 1, size - 1};
  struct arena a;
  struct err e = {0};
  arena_init(&a, 64 << 20);
  const ProtobufCMessage *m = json_decode(desc, text, &options, &a, &e);
  if (m)
    round_trip(desc, m, &a);
  else
    check(e.code != CODE_OK && e.msg[0]);
  arena_free(&a);
  return 0;
}
