// SPDX-License-Identifier: Apache-2.0
// Serves gateway/transcode to tests/integration/test_transcode_oracle.py, which compares it with Google's implementation, and to test_tensors_oracle.py, which does with NumPy.
//
// Reads commands on stdin until it ends: operation (1 byte), options (1 byte), name (u32 length, bytes), message (u32 length, bytes). Writes for each:
// 1 or 0, and (u32 length, bytes) the result or the error. Numbers are little-endian. Operations: 'j' binary to JSON, 'b' JSON to binary; 't' JSON
// to an envgate.v1.Payload in tensor form, where the name is a StepRequest in binary that says which.
// Options: 1 snake_case, 2 emit_defaults, 4 ignore_unknown.
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/payload.h"
#include "base/json.h"
#include "envgate/v1/session_service.pb-c.h"
#include "transcode/transcode.h"
#include "transcode_test.pb-c.h"

enum { INPUT_LIMIT = 64 << 20, DEPTH_LIMIT = 64 };

static const ProtobufCMessageDescriptor *const test_types[] = {
    &envgate__test__all__descriptor,        &envgate__test__scalars__descriptor, &envgate__test__optionals__descriptor,
    &envgate__test__repeated__descriptor,   &envgate__test__maps__descriptor,    &envgate__test__oneofs__descriptor,
    &envgate__test__well_known__descriptor, &envgate__test__nest__descriptor,    &envgate__test__pair_entry__descriptor,
};

static const ProtobufCMessageDescriptor *find(struct str name)
{
  for (size_t i = 0; i < sizeof test_types / sizeof *test_types; i++)
    if (str_eq(name, str_c(test_types[i]->name)))
      return test_types[i];
  for (size_t i = 0; i < envgate_api.types.n; i++)
    if (str_eq(name, str_c(envgate_api.types.at[i]->name)))
      return envgate_api.types.at[i];
  return NULL;
}

static bool read_bytes(void *to, size_t n)
{
  return fread(to, 1, n, stdin) == n;
}

static bool read_blob(struct buf *b)
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

static void write_result(bool ok, struct str s)
{
  unsigned char head[5] = {ok, s.n & 255, s.n >> 8 & 255, s.n >> 16 & 255, s.n >> 24 & 255};
  fwrite(head, 1, sizeof head, stdout);
  fwrite(s.p, 1, s.n, stdout);
  fflush(stdout);
}

static bool tensors(struct str request, struct str json, struct arena *a, struct buf *out, struct err *e)
{
  const Envgate__V1__StepRequest *q = (const void *)proto_decode(&envgate__v1__step_request__descriptor, request, DEPTH_LIMIT, a, e);
  struct payload_terms terms;
  struct buf_pool bufs = {0};
  struct payload_scope scope = {.arena = a, .codec = CODEC_PROTO, .bufs = &bufs, .room = INPUT_LIMIT};
  struct payload_bytes bytes = {0};
  Envgate__V1__Payload payload, *slot;
  bool ok = q && payload_terms_read(a, ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_TENSORS, q->tensors, q->n_tensors, &terms, e) &&
            payload_terms_check(&terms, e) && json_check(json, DEPTH_LIMIT, "json", NULL, e) &&
            payload_write_by(&scope, json, &terms, &payload, &slot, &bytes, e) && proto_encode(&payload.base, out, e);
  payload_bytes_return(&bufs, &bytes);
  buf_pool_free(&bufs);
  return ok;
}

static bool transcode(char operation, int flags, struct str name, struct str bytes, struct buf *out, struct err *e)
{
  const struct transcode_options options = {
      .max_depth = DEPTH_LIMIT, .types = &envgate_api.types, .snake_case = flags & 1, .emit_defaults = flags & 2, .ignore_unknown = flags & 4};
  const ProtobufCMessageDescriptor *desc = operation == 't' ? NULL : find(name);
  if (!desc && operation != 't')
    return err_set(e, CODE_NOT_FOUND, NULL, "no such message");
  // The bytes go through a block of exactly their size, so that a sanitizer sees a read past them.
  char *exact = malloc(bytes.n ? bytes.n : 1);
  if (!exact)
    return err_nomem(e);
  memcpy(exact, bytes.p, bytes.n);
  struct arena a;
  arena_init(&a, (size_t)INPUT_LIMIT * 16);
  struct str text = {exact, bytes.n};
  if (operation == 't') {
    bool made = tensors(name, text, &a, out, e);
    arena_free(&a);
    free(exact);
    return made;
  }
  const ProtobufCMessage *m = operation == 'j' ? proto_decode(desc, text, DEPTH_LIMIT, &a, e) : json_decode(desc, text, &options, &a, e);
  bool ok = m && (operation == 'j' ? json_encode(m, &options, out, e) : proto_encode(m, out, e));
  arena_free(&a);
  free(exact);
  return ok;
}

int main(void)
{
  struct buf name = {0}, bytes = {0}, out = {0};
  unsigned char head[2];
  while (read_bytes(head, sizeof head) && read_blob(&name) && read_blob(&bytes)) {
    struct err e = {0};
    out.n = 0;
    bool ok = transcode((char)head[0], head[1], buf_view(&name), buf_view(&bytes), &out, &e);
    write_result(ok, ok ? buf_view(&out) : str_c(e.msg));
  }
  buf_free(&name);
  buf_free(&bytes);
  buf_free(&out);
  return 0;
}
