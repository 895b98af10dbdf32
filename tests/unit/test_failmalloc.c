// SPDX-License-Identifier: Apache-2.0
// Every allocation that base/ and transcode/ make is made to fail once. Linked with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc.
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/json.h"
#include "transcode/tensors.h"
#include "transcode/transcode.h"
#include "transcode_test.pb-c.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static long countdown = -1; // of allocations until one fails; below 0: none does

static bool fails_now(void)
{
  return countdown >= 0 && countdown-- == 0;
}

void *__wrap_malloc(size_t n)
{
  return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
  return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
  return fails_now() ? NULL : __real_realloc(p, n);
}

// Runs `work` with its first allocation failing, then its second and so on, until none is left to fail; it must succeed then, and fail cleanly
// before. Returns how many allocations there were.
static long torture(bool (*work)(struct err *e))
{
  for (long k = 0;; k++) {
    struct err e = {0};
    countdown = k;
    bool ok = work(&e);
    bool failed_one = countdown < 0;
    countdown = -1;
    if (!failed_one) {
      assert_true(ok);
      return k;
    }
    assert_false(ok);
    assert_int_equal(e.code, CODE_RESOURCE_EXHAUSTED);
    assert_ptr_equal(e.reason, REASON_OUT_OF_MEMORY);
  }
}

static const char sample[] =
    "{\"scalars\":{\"anInt64\":\"5\",\"aString\":\"esc\\naped\",\"aBytes\":\"AQIDBAUG\"},\"optionals\":{\"aString\":\"\",\"aMessage\":{}},"
    "\"repeated\":{\"anInt32\":[1,2,3,4,5,6,7,8,9],\"aString\":[\"a\",\"b\"],\"aMessage\":[{},{},{},{},{},{}]},"
    "\"maps\":{\"stringMessage\":{\"k\":{\"aBool\":true},\"l\":{}},\"stringValue\":{\"v\":[null,1,{\"x\":\"y\"}]}},"
    "\"oneofs\":{\"aString\":\"one\"},\"wellKnown\":{\"aTimestamp\":\"2024-01-01T00:00:00Z\",\"aMask\":\"a,bC\","
    "\"anAny\":{\"@type\":\"x/google.rpc.BadRequest\",\"fieldViolations\":[{\"field\":\"f\"}]},\"aString\":\"w\","
    "\"anys\":[{\"@type\":\"x/google.protobuf.Struct\",\"value\":{\"a\":1}}]}}";

static const struct transcode_options options = {.max_depth = 16, .types = &envgate_api.types};

// An arena whose chunks are all used up again and again: each message is followed by filler, so that allocations do not hide in one chunk.
static bool json_to_message(struct err *e)
{
  struct arena a;
  arena_init(&a, 1 << 20);
  bool ok = true;
  for (int i = 0; ok && i < 4; i++)
    ok = json_decode(&envgate__test__all__descriptor, str_c(sample), &options, &a, e) != NULL;
  arena_free(&a);
  return ok;
}

static bool there_and_back(struct err *e)
{
  struct arena a;
  struct buf json = {0}, wire = {0};
  arena_init(&a, 1 << 20);
  const ProtobufCMessage *m = json_decode(&envgate__test__all__descriptor, str_c(sample), &options, &a, e);
  bool ok = m && json_encode(m, &options, &json, e) && proto_encode(m, &wire, e);
  m = ok ? proto_decode(&envgate__test__all__descriptor, buf_view(&wire), 16, &a, e) : NULL;
  json.n = 0;
  ok = m && json_encode(m, &options, &json, e);
  if (ok)
    if (!str_eq(buf_view(&json), str_c(sample)))
      fail_msg("%.*s", (int)json.n, json.p);
  buf_free(&json);
  buf_free(&wire);
  arena_free(&a);
  return ok;
}

// A whole message in chunks of its own: the filler takes what is left of each chunk, so every single allocation is one of malloc's.
static bool with_full_chunks(struct err *e)
{
  static const struct {
    const ProtobufCMessageDescriptor *desc;
    const char *path, *text;
  } fields[] = {
      {&envgate__test__all__descriptor, "scalars.aString", "x"},
      {&envgate__test__all__descriptor, "repeated.aString", "y"},
      {&envgate__test__all__descriptor, "wellKnown.aTimestamp", "2024-01-01T00:00:00Z"},
      {&envgate__test__all__descriptor, "wellKnown.aMask", "a,b"},
  };
  struct arena a;
  arena_init(&a, 1 << 20);
  ProtobufCMessage *m = message_new(&envgate__test__all__descriptor, &a);
  bool ok = m || err_nomem(e);
  for (size_t i = 0; ok && i < sizeof fields / sizeof *fields; i++) {
    a.at = a.end; // the chunk is full
    ok = text_decode_field(m, str_c(fields[i].path), str_c(fields[i].text), &a, e);
  }
  arena_free(&a);
  return ok;
}

// JSON to tensors and back.
static bool tensors(struct err *e)
{
  Envgate__V1__TensorSpec spec, *list[] = {&spec};
  Envgate__V1__Tensor tensor;
  Envgate__V1__Tensors__TensorsEntry entry, *entries[] = {&entry};
  Envgate__V1__Tensors all;
  struct arena a;
  struct buf data = {0}, rest = {0}, json = {0};
  struct tensor t;
  bool rest_is_all;
  arena_init(&a, 1 << 20);
  envgate__v1__tensor_spec__init(&spec);
  envgate__v1__tensor__init(&tensor);
  envgate__v1__tensors__tensors_entry__init(&entry);
  envgate__v1__tensors__init(&all);
  static char path[] = "/a/b";
  spec.path = entry.key = path;
  spec.dtype = tensor.dtype = ENVGATE__V1__DTYPE__DTYPE_FLOAT64;
  entry.value = &tensor;
  all.n_tensors = 1;
  all.tensors = entries;
  void *memory = arena_alloc(&a, tensor_specs_size(list, 1));
  bool ok = memory || err_nomem(e);
  ok = ok &&
       tensors_from_json(
           tensor_specs_make(list, 1, memory),
           STR("{\"k\":1,\"a\":{\"b\":[[0.5,1],[2,3],[4,5],[6,7],[8,9],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1],[0,1]]}}"),
           &t, &data, &rest, &rest_is_all, e);
  if (ok) {
    tensor.n_shape = (size_t)t.rank;
    tensor.shape = t.shape;
    tensor.data = (ProtobufCBinaryData){t.n, (uint8_t *)data.p + t.at};
    a.at = a.end; // the chunk is full
    const struct tensor_writer *w = tensor_writer_new(&all, 16, "f", NULL, &a, e);
    ok = w && tensor_writer_put(w, 0, &json, e);
  }
  buf_free(&data);
  buf_free(&rest);
  buf_free(&json);
  arena_free(&a);
  return ok;
}

static bool buffers(struct err *e)
{
  struct buf b = {0};
  bool ok = buf_str(&b, STR("start")) && buf_printf(&b, "%0500d", 7) && buf_json_string(&b, STR("\"\x01\xff")) &&
            json_unescape(STR("\\u00e9 and so on"), &b);
  for (int i = 0; ok && i < 5000; i++)
    ok = buf_char(&b, 'x');
  struct shared *s = ok ? shared_take(NULL, &b) : NULL;
  shared_unref(s);
  buf_free(&b);
  return s || err_nomem(e);
}

static bool arenas(struct err *e)
{
  struct arena a;
  arena_init(&a, 1 << 20);
  bool ok = arena_alloc(&a, 10) && arena_dup(&a, STR("copied")) && arena_printf(&a, "%05000d", 1) && arena_alloc(&a, 100000);
  arena_free(&a);
  return ok || err_nomem(e);
}

static void json_decoding(void **state)
{
  (void)state;
  assert_true(torture(json_to_message) >= 3);
}

static void whole_way(void **state)
{
  (void)state;
  assert_true(torture(there_and_back) >= 5);
}

static void text_decoding(void **state)
{
  (void)state;
  assert_true(torture(with_full_chunks) >= 5);
}

static void tensor_forms(void **state)
{
  (void)state;
  assert_true(torture(tensors) >= 5);
}

static void base(void **state)
{
  (void)state;
  assert_true(torture(buffers) >= 5);
  assert_true(torture(arenas) >= 3);
}

// The same for each single allocation from an arena: one that may hold ever more.
static void arena_limits(void **state)
{
  (void)state;
  size_t max = 0;
  for (bool ok = false; !ok; max += 16) {
    struct arena a;
    struct err e = {0};
    struct buf out = {0};
    arena_init(&a, max);
    ProtobufCMessage *m = json_decode(&envgate__test__all__descriptor, str_c(sample), &options, &a, &e);
    ok = m && json_encode(m, &options, &out, &e);
    if (!m)
      assert_ptr_equal(e.reason, REASON_OUT_OF_MEMORY);
    buf_free(&out);
    arena_free(&a);
  }
  assert_true(max > 4096);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(json_decoding), cmocka_unit_test(whole_way),    cmocka_unit_test(text_decoding),
      cmocka_unit_test(base),          cmocka_unit_test(tensor_forms), cmocka_unit_test(arena_limits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
