// SPDX-License-Identifier: Apache-2.0
// google.rpc.Status of an error: https://cloud.google.com/apis/design/errors and google/rpc/error_details.proto.
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

Google__Rpc__Status *rpc_status(const struct err *e, struct arena *a)
{
  enum { DETAILS = 3 };
  Google__Rpc__Status *status = arena_alloc(a, sizeof *status);
  if (!status)
    return NULL;
  google__rpc__status__init(status);
  status->code = (int32_t)e->code;
  status->message = arena_dup(a, str_c(e->msg));
  status->details = arena_alloc(a, DETAILS * sizeof(Google__Protobuf__Any *));
  if (!status->message || !status->details)
    return NULL;
  if (e->reason) {
    Google__Rpc__ErrorInfo info;
    google__rpc__error_info__init(&info);
    info.reason = unconst(e->reason);
    info.domain = unconst("envgate");
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

bool rpc_status_pack(const struct err *e, struct buf *out)
{
  struct arena a;
  arena_init(&a, 64 << 10);
  const Google__Rpc__Status *status = rpc_status(e, &a);
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
