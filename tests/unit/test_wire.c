// SPDX-License-Identifier: Apache-2.0
#include <google/protobuf/empty.pb-c.h>
#include <google/protobuf/struct.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "transcode/transcode.h"
#include "transcode_test.pb-c.h"

enum { DEPTH = 16 };

// Decodes a copy in a block of exactly its size. What is taken is written as something that reads the same, and that protobuf-c agrees with.
static bool takes(const ProtobufCMessageDescriptor *desc, struct str bytes, struct err *e)
{
  char *copy = malloc(bytes.n ? bytes.n : 1);
  assert_non_null(copy);
  if (bytes.n)
    memcpy(copy, bytes.p, bytes.n);
  struct arena a;
  struct buf first = {0}, second = {0};
  arena_init(&a, 64 << 20);
  const ProtobufCMessage *m = proto_decode(desc, (struct str){copy, bytes.n}, DEPTH, &a, e);
  free(copy);
  if (m) {
    assert_true(proto_encode(m, &first, e));
    assert_int_equal(first.n, protobuf_c_message_get_packed_size(m));
    const ProtobufCMessage *again = proto_decode(desc, buf_view(&first), DEPTH, &a, e);
    assert_non_null(again);
    assert_true(proto_encode(again, &second, e));
    assert_int_equal(first.n, second.n);
    if (first.n)
      assert_memory_equal(first.p, second.p, first.n);
    uint8_t *packed = malloc(first.n + 1);
    assert_non_null(packed);
    assert_int_equal(protobuf_c_message_pack(m, packed), first.n);
    if (first.n)
      assert_memory_equal(first.p, packed, first.n);
    free(packed);
  }
  buf_free(&first);
  buf_free(&second);
  arena_free(&a);
  return m != NULL;
}

#define BYTES(literal)              \
  {                                 \
    "" literal, sizeof(literal) - 1 \
  }

static const struct wire_case {
  const ProtobufCMessageDescriptor *desc;
  struct str bytes;
  const char *field; // NULL: taken
} cases[] = {
    {&envgate__test__scalars__descriptor, BYTES(""), NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x08\x01"), NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "an_int32"}, // 11 bytes
    {&envgate__test__scalars__descriptor, BYTES("\x08"), "an_int32"},
    {&envgate__test__scalars__descriptor, BYTES("\x08\x80"), "an_int32"},
    {&envgate__test__scalars__descriptor, BYTES("\x80"), ""},
    {&envgate__test__scalars__descriptor, BYTES("\x00\x01"), ""},             // field number 0
    {&envgate__test__scalars__descriptor, BYTES("\xff\xff\xff\xff\x7f"), ""}, // over 32 bits
    {&envgate__test__scalars__descriptor, BYTES("\x88\x80\x80\x80\x80\x00\x01"), ""},
    {&envgate__test__scalars__descriptor,
     BYTES("\x72\x03"
           "abc"),
     NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x72\x02\xc3\xa9"), NULL},
    {&envgate__test__scalars__descriptor,
     BYTES("\x72\x03"
           "ab"),
     "a_string"},
    {&envgate__test__scalars__descriptor,
     BYTES("\x72\x03"
           "a\0b"),
     "a_string"},
    {&envgate__test__scalars__descriptor, BYTES("\x72\x01\xff"), "a_string"},
    {&envgate__test__scalars__descriptor, BYTES("\x72\x03\xed\xa0\x80"), "a_string"},
    {&envgate__test__scalars__descriptor, BYTES("\x72\xff\xff\xff\xff\x0f"), "a_string"},
    {&envgate__test__scalars__descriptor, BYTES("\x7a\x02\xff\x00"), NULL}, // bytes may be anything
    {&envgate__test__scalars__descriptor, BYTES("\x70\x01"), "a_string"},   // a varint where a string is due
    {&envgate__test__scalars__descriptor, BYTES("\x3d\x01\x02\x03\x04"), NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x3d\x01\x02\x03"), "a_fixed32"},
    {&envgate__test__scalars__descriptor, BYTES("\x41\x01\x02\x03\x04\x05\x06\x07\x08"), NULL},
    {&envgate__test__scalars__descriptor, BYTES("\x41\x01\x02\x03\x04\x05\x06\x07"), "a_fixed64"},
    {&envgate__test__scalars__descriptor, BYTES("\x0b\x0c"), "an_int32"},                   // a group
    {&envgate__test__scalars__descriptor, BYTES("\xa3\x06\xa4\x06"), ""},                   // an unknown one
    {&envgate__test__scalars__descriptor, BYTES("\x0f"), "an_int32"},                       // no such wire type
    {&envgate__test__scalars__descriptor, BYTES("\xa2\x06\x02\x08\xff\xa0\x06\x01"), NULL}, // unknown fields
    {&envgate__test__scalars__descriptor,
     BYTES("\xa2\x06\x05"
           "a"),
     ""},
    {&envgate__test__repeated__descriptor, BYTES("\x0a\x03\x01\x80\x01"), NULL}, // packed
    {&envgate__test__repeated__descriptor, BYTES("\x08\x01\x08\x02"), NULL},     // and not
    {&envgate__test__repeated__descriptor, BYTES("\x0a\x02\x01\x80"), "an_int32"},
    {&envgate__test__repeated__descriptor, BYTES("\x3a\x05\x01\x02\x03\x04\x05"), "a_fixed32"},
    {&envgate__test__repeated__descriptor,
     BYTES("\x72\x01"
           "a\x72\x01\xff"),
     "a_string"},
    {&envgate__test__maps__descriptor, BYTES("\x42\x00"), NULL}, // an entry with neither key nor value
    {&envgate__test__maps__descriptor, BYTES("\x42\x05\x0a\x01k\x12\x00"), NULL},
    {&envgate__test__maps__descriptor, BYTES("\x42\x03\x0a\x01\xff"), "string_message.key"},
    {&envgate__test__scalars__descriptor, BYTES("\x08\x01\x08\x02"), NULL}, // a scalar twice: the last counts
    {&envgate__test__oneofs__descriptor, BYTES("\x42\x00\x42\x00"), NULL},  // a message twice: merged
    {&envgate__test__all__descriptor, BYTES("\x2a\x00\x2a\x00"), NULL},
    {&envgate__test__all__descriptor, BYTES("\x0a\x03\x72\x01\xff"), "scalars.a_string"},
    {&envgate__test__all__descriptor, BYTES("\x0a\x02\x08"), "scalars"},
    {&google__protobuf__empty__descriptor, BYTES("\x08\x01"), NULL}, // no fields but one that is unknown
};

static void cases_hold(void **state)
{
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct err e = {0};
    bool ok = takes(cases[i].desc, cases[i].bytes, &e);
    if (ok != !cases[i].field)
      fail_msg("case %zu: %s", i, ok ? "taken" : e.msg);
    if (!ok) {
      assert_int_equal(e.code, CODE_INVALID_ARGUMENT);
      assert_ptr_equal(e.reason, REASON_INVALID_REQUEST);
      assert_string_equal(e.field, cases[i].field);
    }
  }
}

// The later message's fields join the earlier's, in a oneof, too; another member of the oneof takes its place.
static void messages_are_merged(void **state)
{
  (void)state;
  struct arena a;
  struct err e;
  arena_init(&a, 1 << 20);
  const Envgate__Test__All *all =
      (const void *)proto_decode(&envgate__test__all__descriptor, STR("\x0a\x02\x08\x05\x0a\x05\x10\x07\x72\x01z"), DEPTH, &a, &e);
  assert_non_null(all);
  assert_int_equal(all->scalars->an_int32, 5);
  assert_string_equal(all->scalars->a_string, "z");
  arena_free(&a);
}

// A message around `inner`, as its field with that tag.
static void wrap(struct buf *b, char tag)
{
  struct buf out = {0};
  assert_true(buf_char(&out, tag));
  size_t n = b->n;
  for (; n >= 0x80; n >>= 7)
    assert_true(buf_char(&out, (char)(n | 0x80)));
  assert_true(buf_char(&out, (char)n) && buf_add(&out, b->p, b->n));
  buf_free(b);
  *b = out;
}

static void depth_has_a_limit(void **state)
{
  (void)state;
  struct buf b = {0};
  struct err e = {0};
  for (int depth = 1; depth <= 3000; depth++) {
    bool check = depth < 20 || depth % 500 == 0;
    if (check)
      assert_int_equal(takes(&envgate__test__nest__descriptor, buf_view(&b), &e), depth <= DEPTH);
    if (check && depth > DEPTH) {
      assert_ptr_equal(e.reason, REASON_JSON_TOO_DEEP);
      assert_true(strncmp(e.field, "child.child.child", 17) == 0);
    }
    wrap(&b, 0x0a);
  }
  buf_free(&b);
}

// Struct in binary form: the depth is that of its JSON, {"": {"": …}}, though there are three messages to each level.
static void depth_of_a_value_is_that_of_its_json(void **state)
{
  (void)state;
  struct buf b = {0};
  struct err e = {0};
  for (int depth = 0; depth < 200; depth++) {
    assert_int_equal(takes(&google__protobuf__value__descriptor, buf_view(&b), &e), depth <= DEPTH);
    wrap(&b, 0x12); // an entry's value
    wrap(&b, 0x0a); // a Struct's fields
    wrap(&b, 0x2a); // a Value's struct_value
  }
  buf_free(&b);
}

// Whatever a valid message is changed into, nothing is read that should not be: a sanitizer watches.
static void damaged_messages_do_no_harm(void **state)
{
  (void)state;
  static const char valid[] =
      "\x0a\x10\x08\x05\x72\x03xyz\x7a\x02\x01\x02\x5d\x00\x00\x80\x3f\x1a\x07\x0a\x02\x01\x02\x72\x01z\x22\x09\x42\x07\x0a\x01k\x12\x02\x08\x01"
      "\x42\x05\x0a\x03\x0a\x01k\x4a\x04\x0a\x02\x08\x01";
  srand(11);
  int taken = 0;
  for (int round = 0; round < 20000; round++) {
    char bytes[sizeof valid - 1];
    memcpy(bytes, valid, sizeof bytes);
    for (int changes = 1 + rand() % 3; changes > 0; changes--)
      bytes[(size_t)rand() % sizeof bytes] = (char)rand();
    struct err e;
    taken += takes(&envgate__test__all__descriptor, (struct str){bytes, (size_t)rand() % (sizeof bytes + 1)}, &e);
  }
  assert_true(taken > 100);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cases_hold),
      cmocka_unit_test(messages_are_merged),
      cmocka_unit_test(depth_has_a_limit),
      cmocka_unit_test(depth_of_a_value_is_that_of_its_json),
      cmocka_unit_test(damaged_messages_do_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
