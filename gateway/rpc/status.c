// SPDX-License-Identifier: Apache-2.0
// google.rpc.Status of an error: https://cloud.google.com/apis/design/errors and google/rpc/error_details.proto.
#include <stdio.h>

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/rpc.h"

static bool add_detail(Google__Rpc__Status *status, const ProtobufCMessage *detail, struct arena *a)
{
  Google__Protobuf__Any *any = arena_alloc(a, sizeof *any);
  size_t n = protobuf_c_message_get_packed_size(detail);
  uint8_t *bytes = arena_alloc(a, n);
  char *url = arena_printf(a, "type.googleapis.com/%s", detail->descriptor->name);
  if (!any || !bytes || !url)
    return false;
  google__protobuf__any__init(any);
  protobuf_c_message_pack(detail, bytes);
  any->type_url = url;
  any->value = (ProtobufCBinaryData){n, bytes};
  status->details[status->n_details++] = any;
  return true;
}

// protobuf-c's members are not const, and it never writes to what it packs.
static char *unconst(const char *s)
{
  union {
    const char *from;
    char *to;
  } u = {s};
  return u.to;
}

static bool add_own(Google__Rpc__Status *status, const struct call_extra *extra, struct arena *a)
{
  for (size_t i = 0; i < extra->detail_count; i++) {
    Google__Protobuf__Any *any = arena_alloc(a, sizeof *any);
    if (!any)
      return false;
    google__protobuf__any__init(any);
    any->type_url = unconst(extra->details[i].type);
    any->value = (ProtobufCBinaryData){extra->details[i].value.n, (uint8_t *)unconst(extra->details[i].value.p)};
    status->details[status->n_details++] = any;
  }
  return true;
}

// `extra` may be NULL.
static Google__Rpc__Status *make_status(const char *domain, const struct call_extra *extra, const struct err *e, struct arena *a)
{
  enum { DETAILS = 3 };
  size_t own = extra ? extra->detail_count : 0;
  Google__Rpc__Status *status = arena_alloc(a, sizeof *status);
  if (!status)
    return NULL;
  google__rpc__status__init(status);
  status->code = (int32_t)e->code;
  status->message = arena_dup(a, str_c(e->msg));
  status->details = arena_alloc(a, (own + DETAILS) * sizeof(Google__Protobuf__Any *));
  if (!status->message || !status->details)
    return NULL;
  if (extra && !add_own(status, extra, a))
    return NULL;
  if (!domain)
    return status;
  if (e->reason) {
    Google__Rpc__ErrorInfo info;
    google__rpc__error_info__init(&info);
    info.reason = unconst(e->reason);
    info.domain = unconst(domain);
    char code[16];
    Google__Rpc__ErrorInfo__MetadataEntry entry, *entries = &entry;
    if (e->jsonrpc_code) {
      snprintf(code, sizeof code, "%d", (int)e->jsonrpc_code);
      google__rpc__error_info__metadata_entry__init(&entry);
      entry.key = unconst("jsonrpc_code");
      entry.value = code;
      info.n_metadata = 1;
      info.metadata = &entries;
    }
    if (!add_detail(status, &info.base, a))
      return NULL;
  }
  if (e->retry_after_ms) {
    Google__Protobuf__Duration delay;
    google__protobuf__duration__init(&delay);
    delay.seconds = e->retry_after_ms / 1000;
    delay.nanos = (int32_t)(e->retry_after_ms % 1000) * 1000000;
    Google__Rpc__RetryInfo retry;
    google__rpc__retry_info__init(&retry);
    retry.retry_delay = &delay;
    if (!add_detail(status, &retry.base, a))
      return NULL;
  }
  if (e->field[0]) {
    Google__Rpc__BadRequest__FieldViolation violation, *violations = &violation;
    google__rpc__bad_request__field_violation__init(&violation);
    violation.field = unconst(e->field);
    violation.description = unconst(e->msg);
    Google__Rpc__BadRequest bad;
    google__rpc__bad_request__init(&bad);
    bad.n_field_violations = 1;
    bad.field_violations = &violations;
    if (!add_detail(status, &bad.base, a))
      return NULL;
  }
  return status;
}

Google__Rpc__Status *rpc_status_in(const char *domain, const struct err *e, struct arena *a)
{
  return make_status(domain, NULL, e, a);
}

Google__Rpc__Status *call_status(const struct call *c, const struct err *e, struct arena *a)
{
  return make_status(rpc_api(c->home)->error_domain, c->extra, e, a);
}

bool call_status_pack(const struct call *c, const struct err *e, struct buf *out)
{
  struct arena a;
  arena_init(&a, 64 << 10);
  const Google__Rpc__Status *status = call_status(c, e, &a);
  char *to = NULL;
  if (status) {
    size_t n = google__rpc__status__get_packed_size(status);
    to = buf_reserve(out, n);
    if (to)
      out->n += google__rpc__status__pack(status, (uint8_t *)to);
  }
  arena_free(&a);
  return to != NULL;
}
