// SPDX-License-Identifier: Apache-2.0
#include "transcode/any.h"

static int compare(struct str a, struct str b)
{
  size_t n = a.n < b.n ? a.n : b.n;
  int order = n ? memcmp(a.p, b.p, n) : 0;
  return order ? order : (a.n > b.n) - (a.n < b.n);
}

const ProtobufCMessageDescriptor *any_type(const struct message_types *types, struct str url)
{
  const char *slash = url.n ? memrchr(url.p, '/', url.n) : NULL;
  if (!slash || !types)
    return NULL;
  struct str name = str_skip(url, (size_t)(slash - url.p) + 1);
  size_t low = 0, high = types->n;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = compare(name, str_c(types->at[middle]->name));
    if (order == 0)
      return types->at[middle];
    if (order < 0)
      high = middle;
    else
      low = middle + 1;
  }
  return NULL;
}
