// SPDX-License-Identifier: Apache-2.0
#include "front/grpc_web_wire.h"

#include "front/grpc_wire.h"
#include "transcode/text.h"

bool grpc_web_content_type(struct str value, bool *text, enum codec *codec)
{
  const struct str web = STR("application/grpc-web"), as_text = STR("-text");
  if (value.n < web.n || strncasecmp(value.p, web.p, web.n) != 0)
    return false;
  struct str rest = str_skip(value, web.n);
  *text = rest.n >= as_text.n && strncasecmp(rest.p, as_text.p, as_text.n) == 0;
  return grpc_subtype(*text ? str_skip(rest, as_text.n) : rest, codec);
}

bool grpc_web_trailers(const struct call *c, const struct err *e, struct buf *out)
{
  bool ok = buf_printf(out, "grpc-status: %u\r\n", e ? (unsigned)e->code : 0U);
  if (ok && e) {
    struct buf packed = {0};
    ok = buf_str(out, STR("grpc-message: ")) && grpc_percent_encode(str_c(e->msg), out) && buf_str(out, STR("\r\ngrpc-status-details-bin: ")) &&
         call_status_pack(c, e, &packed) && grpc_base64(buf_view(&packed), out) && buf_str(out, STR("\r\n"));
    buf_free(&packed);
  }
  for (size_t i = 0; ok && c->extra && i < c->extra->trailers.n; i++) {
    const struct header *h = &c->extra->trailers.at[i];
    ok = buf_str(out, h->name) && buf_str(out, STR(": ")) && buf_str(out, h->value) && buf_str(out, STR("\r\n"));
  }
  return ok;
}

bool grpc_web_text_decode(struct grpc_web_text *t, struct str in, struct buf *out)
{
  uint8_t *to = (uint8_t *)buf_reserve(out, (t->n + in.n) / 4 * 3 + 3);
  if (!to)
    return false;
  for (size_t i = 0; i < in.n; i++) {
    t->four[t->n++] = in.p[i];
    if (t->n < sizeof t->four)
      continue;
    t->n = 0;
    size_t n;
    if (!base64_decode((struct str){t->four, sizeof t->four}, to, &n))
      return false;
    to += n;
    out->n += n;
  }
  return true;
}

bool grpc_web_text_encode(struct str bytes, struct buf *out)
{
  size_t n = base64_length(bytes.n);
  char *to = buf_reserve(out, n);
  if (!to)
    return false;
  base64_encode((const uint8_t *)bytes.p, bytes.n, to);
  out->n += n;
  return true;
}
