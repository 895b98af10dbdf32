// SPDX-License-Identifier: Apache-2.0
#include "transcode/map_keys.h"

#include <stdlib.h>

// Up to so many keys are compared each with each, which is the least work for the maps that callers have.
enum { FEW = 8 };

static int compare_keys(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
  const ProtobufCFieldDescriptor *f = &a->descriptor->fields[0];
  const void *x = field_value(a, f), *y = field_value(b, f);
  if (f->type == PROTOBUF_C_TYPE_STRING)
    return strcmp(*(char *const *)x, *(char *const *)y);
  return memcmp(x, y, value_size(f->type)); // any order will do
}

// By key, and those of the same key in the map's order.
static int compare_places(const void *a, const void *b, void *entries)
{
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  ProtobufCMessage *const *all = entries;
  int order = compare_keys(all[x], all[y]);
  return order ? order : (x > y) - (x < y);
}

static bool mark(struct map_keys *keys, size_t i, struct arena *a)
{
  if (!keys->again && !(keys->again = arena_alloc(a, keys->n / 8 + 1)))
    return false;
  keys->again[i / 8] |= (uint8_t)(1U << (i % 8));
  return true;
}

static bool find_among_few(struct map_keys *keys, struct arena *a)
{
  for (size_t i = 0; i < keys->n; i++)
    for (size_t k = i + 1; k < keys->n; k++)
      if (compare_keys(keys->entries[i], keys->entries[k]) == 0 && !mark(keys, i, a))
        return false;
  return true;
}

static bool find_among_many(struct map_keys *keys, struct arena *a)
{
  uint32_t *places = arena_alloc(a, keys->n * sizeof *places);
  if (!places)
    return false;
  for (size_t i = 0; i < keys->n; i++)
    places[i] = (uint32_t)i;
  qsort_r(places, keys->n, sizeof *places, compare_places, (void *)(uintptr_t)keys->entries);
  for (size_t i = 0; i + 1 < keys->n; i++)
    if (compare_keys(keys->entries[places[i]], keys->entries[places[i + 1]]) == 0 && !mark(keys, places[i], a))
      return false;
  return true;
}

bool map_keys_find(struct map_keys *keys, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct arena *a)
{
  *keys = (struct map_keys){.entries = *(ProtobufCMessage * *const *)field_value(m, f), .n = field_count(m, f)};
  return keys->n <= FEW ? find_among_few(keys, a) : find_among_many(keys, a);
}
