// SPDX-License-Identifier: Apache-2.0
// Serves gateway/transcode to Google's protobuf conformance runner (tests/conformance/protobuf/run.sh).
//
// Reads requests on stdin until it ends: u32 length, conformance.ConformanceRequest; writes for each u32 length, conformance.ConformanceResponse. Numbers
// are little-endian. The request is read and the response written by the transcoder, too.
#include <stdio.h>
#include <stdlib.h>

#include "conformance.pb-c.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/empty.pb-c.h"
#include "google/protobuf/field_mask.pb-c.h"
#include "google/protobuf/struct.pb-c.h"
#include "google/protobuf/test_messages_proto2.pb-c.h"
#include "google/protobuf/test_messages_proto3.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "google/protobuf/wrappers.pb-c.h"
#include "transcode/transcode.h"

enum { INPUT_LIMIT = 64 << 20, DEPTH_LIMIT = 100 };

// What google.protobuf.Any may hold here.
static const ProtobufCMessageDescriptor *const known[] = {
    &google__protobuf__any__descriptor,
    &google__protobuf__bool_value__descriptor,
    &google__protobuf__bytes_value__descriptor,
    &google__protobuf__double_value__descriptor,
    &google__protobuf__duration__descriptor,
    &google__protobuf__empty__descriptor,
    &google__protobuf__field_mask__descriptor,
    &google__protobuf__float_value__descriptor,
    &google__protobuf__int32_value__descriptor,
    &google__protobuf__int64_value__descriptor,
    &google__protobuf__list_value__descriptor,
    &google__protobuf__string_value__descriptor,
    &google__protobuf__struct__descriptor,
    &google__protobuf__timestamp__descriptor,
    &google__protobuf__uint32_value__descriptor,
    &google__protobuf__uint64_value__descriptor,
    &google__protobuf__value__descriptor,
    &protobuf_test_messages__proto2__test_all_types_proto2__descriptor,
    &protobuf_test_messages__proto3__test_all_types_proto3__descriptor,
};
static const struct message_types types = {known, sizeof known / sizeof *known};

static bool read_bytes(void *to, size_t n)
{
  return fread(to, 1, n, stdin) == n;
}

static bool read_request(struct buf *b)
{
  unsigned char size[4];
  if (!read_bytes(size, sizeof size))
    return false;
  size_t n = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
  b->n = 0;
  if (n > INPUT_LIMIT || !buf_reserve(b, n + 1) || !read_bytes(b->p, n))
    return false;
  b->n = n;
  return true;
}

static void write_response(struct str s)
{
  unsigned char head[4] = {s.n & 255, s.n >> 8 & 255, s.n >> 16 & 255, s.n >> 24 & 255};
  fwrite(head, 1, sizeof head, stdout);
  fwrite(s.p, 1, s.n, stdout);
  fflush(stdout);
}

static void set_text(Conformance__ConformanceResponse *response, Conformance__ConformanceResponse__ResultCase which, char *text)
{
  response->result_case = which;
  response->skipped = text; // strings of the same oneof
}

static void skip(Conformance__ConformanceResponse *response, const char *why, struct err *e)
{
  err_set(e, CODE_UNIMPLEMENTED, NULL, "%s", why);
  set_text(response, CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_SKIPPED, e->msg);
}

static const ProtobufCMessageDescriptor *type_of(const char *name)
{
  for (size_t i = 0; i < types.n; i++)
    if (strcmp(types.at[i]->name, name) == 0)
      return types.at[i];
  return NULL;
}

// Decodes the payload. NULL: the response says why.
static ProtobufCMessage *decode(const Conformance__ConformanceRequest *request, const struct transcode_options *options, struct arena *a,
                                Conformance__ConformanceResponse *response, struct err *e)
{
  const ProtobufCMessageDescriptor *desc = type_of(request->message_type);
  if (!desc) {
    skip(response, "the message type is not known", e);
    return NULL;
  }
  ProtobufCMessage *m = NULL;
  if (request->payload_case == CONFORMANCE__CONFORMANCE_REQUEST__PAYLOAD_PROTOBUF_PAYLOAD) {
    // The bytes go through a block of exactly their size, so that a sanitizer sees a read past them.
    size_t n = request->protobuf_payload.len;
    char *exact = malloc(n ? n : 1);
    if (!exact)
      return NULL;
    if (n)
      memcpy(exact, request->protobuf_payload.data, n);
    m = proto_decode(desc, (struct str){exact, n}, DEPTH_LIMIT, a, e);
    free(exact);
  } else if (request->payload_case == CONFORMANCE__CONFORMANCE_REQUEST__PAYLOAD_JSON_PAYLOAD) {
    m = json_decode(desc, str_c(request->json_payload), options, a, e);
  } else {
    skip(response, "only binary and JSON", e);
    return NULL;
  }
  if (!m)
    set_text(response, CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_PARSE_ERROR, e->msg);
  return m;
}

static void answer(const Conformance__ConformanceRequest *request, struct arena *a, struct buf *out, struct err *e,
                   Conformance__ConformanceResponse *response)
{
  const struct transcode_options options = {
      .max_depth = DEPTH_LIMIT,
      .types = &types,
      .ignore_unknown = request->test_category == CONFORMANCE__TEST_CATEGORY__JSON_IGNORE_UNKNOWN_PARSING_TEST,
  };
  // The first request asks for the tests that are expected to fail; the runner has that list by its argument.
  if (strcmp(request->message_type, "conformance.FailureSet") == 0) {
    response->result_case = CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_PROTOBUF_PAYLOAD;
    return;
  }
  bool binary = request->requested_output_format == CONFORMANCE__WIRE_FORMAT__PROTOBUF;
  if (!binary && request->requested_output_format != CONFORMANCE__WIRE_FORMAT__JSON) {
    skip(response, "only binary and JSON", e);
    return;
  }
  const ProtobufCMessage *m = decode(request, &options, a, response, e);
  if (!m)
    return;
  if (binary && proto_encode(m, out, e)) {
    response->result_case = CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_PROTOBUF_PAYLOAD;
    response->protobuf_payload = (ProtobufCBinaryData){out->n, (uint8_t *)out->p};
  } else if (!binary && json_encode(m, &options, out, e) && buf_char(out, '\0')) {
    set_text(response, CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_JSON_PAYLOAD, out->p);
  } else {
    set_text(response, CONFORMANCE__CONFORMANCE_RESPONSE__RESULT_SERIALIZE_ERROR, e->msg);
  }
}

int main(void)
{
  struct buf in = {0}, out = {0}, reply = {0};
  bool ok = true;
  while (ok && read_request(&in)) {
    struct arena a;
    struct err e = {0};
    Conformance__ConformanceResponse response = CONFORMANCE__CONFORMANCE_RESPONSE__INIT;
    arena_init(&a, (size_t)INPUT_LIMIT * 16);
    out.n = reply.n = 0;
    // Not by proto_decode: JSON texts of tests may hold bytes that are no UTF-8.
    ProtobufCMessage *m = protobuf_c_message_unpack(&conformance__conformance_request__descriptor, arena_allocator(&a), in.n, (const uint8_t *)in.p);
    ok = m != NULL;
    if (ok) {
      answer((Conformance__ConformanceRequest *)m, &a, &out, &e, &response);
      ok = proto_encode(&response.base, &reply, &e);
    }
    if (ok)
      write_response(buf_view(&reply));
    arena_free(&a);
  }
  buf_free(&in);
  buf_free(&out);
  buf_free(&reply);
  return ok ? 0 : 1;
}
