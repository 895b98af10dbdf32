// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: which entries of a map count. On the wire a key may come more than once, and the last one holds; protobuf-c keeps them all.
#ifndef ENVGATE_TRANSCODE_MAP_KEYS_H
#define ENVGATE_TRANSCODE_MAP_KEYS_H

#include "base/arena.h"
#include "transcode/message.h"

struct map_keys {
  ProtobufCMessage *const *entries;
  size_t n;
  uint8_t *again; // a bit for each entry: its key comes again behind it; NULL: for none
};

// Looks through the map `f` of `m`, which must live as long as `keys`. Takes memory of the arena only when keys come twice or there are many; costs
// n × log n at most. False: out of memory.
bool map_keys_find(struct map_keys *keys, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct arena *a);

// True when the entry does not count.
static inline bool map_keys_come_again(const struct map_keys *keys, size_t i)
{
  return keys->again && (keys->again[i / 8] >> (i % 8) & 1);
}

#endif
