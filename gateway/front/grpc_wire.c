// SPDX-License-Identifier: Apache-2.0
#include "front/grpc_wire.h"

#include "base/gzip.h"
#include "base/utf8.h"

// False for "WORD W…": a request target is a path, "*" or a URL, and CONNECT's is a host. What is not there yet is given the benefit of the doubt.
static bool has_target(struct str first)
{
  const char *space = memchr(first.p, ' ', first.n);
  if (!space || space + 1 == first.p + first.n || str_starts(first, STR("CONNECT ")))
    return true;
  char c = space[1], lower = (char)(c | 0x20);
  return lower < 'a' || lower > 'z' || lower == 'h';
}

enum grpc_sniff grpc_sniff(struct str first)
{
  static const char preface[] = "PRI";
  size_t n = first.n < 3 ? first.n : 3;
  if (n && memcmp(first.p, preface, n) != 0)
    return has_target(first) ? GRPC_SNIFF_OTHER : GRPC_SNIFF_NEITHER;
  return n == 3 ? GRPC_SNIFF_HTTP2 : GRPC_SNIFF_MORE;
}

static nsec timeout_unit(char c)
{
  switch (c) {
  case 'H':
    return 3600 * NSEC_PER_S;
  case 'M':
    return 60 * NSEC_PER_S;
  case 'S':
    return NSEC_PER_S;
  case 'm':
    return NSEC_PER_MS;
  case 'u':
    return NSEC_PER_US;
  case 'n':
    return 1;
  default:
    return 0;
  }
}

bool grpc_timeout(struct str value, nsec *timeout)
{
  enum { DIGITS = 8 };
  if (value.n < 2 || value.n > DIGITS + 1)
    return false;
  uint64_t count = 0;
  for (size_t i = 0; i + 1 < value.n; i++) {
    if (value.p[i] < '0' || value.p[i] > '9')
      return false;
    count = count * 10 + (uint64_t)(value.p[i] - '0');
  }
  nsec unit = timeout_unit(value.p[value.n - 1]);
  if (!unit)
    return false;
  *timeout = count > NSEC_NEVER / unit ? NSEC_NEVER : count * unit;
  return true;
}

bool grpc_content_type(struct str value, enum codec *codec)
{
  const struct str base = STR("application/grpc");
  return value.n >= base.n && strncasecmp(value.p, base.p, base.n) == 0 && grpc_subtype(str_skip(value, base.n), codec);
}

bool grpc_subtype(struct str rest, enum codec *codec)
{
  const char *semicolon = rest.n ? memchr(rest.p, ';', rest.n) : NULL;
  if (semicolon)
    rest.n = (size_t)(semicolon - rest.p);
  while (rest.n && (rest.p[rest.n - 1] == ' ' || rest.p[rest.n - 1] == '\t'))
    rest.n--;
  if (rest.n == 0 || str_ieq(rest, STR("+proto"))) {
    *codec = CODEC_PROTO;
    return true;
  }
  if (str_ieq(rest, STR("+json"))) {
    *codec = CODEC_JSON;
    return true;
  }
  return false;
}

enum {
  GZIP_SLACK = 64,     // gzip makes what does not compress so much longer, and a thousandth
  ZIP_AT_LEAST = 1024, // smaller messages are not worth it
};

static size_t body_length(const struct grpc_frames *f)
{
  return (size_t)f->prefix[1] << 24 | (size_t)f->prefix[2] << 16 | (size_t)f->prefix[3] << 8 | f->prefix[4];
}

enum grpc_frame grpc_frames_next(struct grpc_frames *f, struct str *in, struct str *message)
{
  while (f->prefix_n < GRPC_PREFIX) {
    if (!in->n)
      return GRPC_FRAME_NONE;
    f->prefix[f->prefix_n++] = (uint8_t)in->p[0];
    *in = str_skip(*in, 1);
    if (f->prefix_n == GRPC_PREFIX)
      f->body.n = 0; // the message before it has been taken by now
  }
  if (f->prefix[0] & ~f->allowed)
    return GRPC_FRAME_FLAG;
  size_t length = body_length(f);
  if (length > f->max + (f->prefix[0] & GRPC_COMPRESSED ? f->max / 1024 + GZIP_SLACK : 0))
    return GRPC_FRAME_TOO_LARGE;
  size_t missing = length - f->body.n;
  if (f->body.n == 0 && in->n >= length) { // all of it is here: no copy
    *message = (struct str){in->p, length};
    *in = str_skip(*in, length);
    f->prefix_n = 0;
    return GRPC_FRAME_MESSAGE;
  }
  size_t n = in->n < missing ? in->n : missing;
  if (!n)
    return GRPC_FRAME_NONE;
  // Grown as bytes come, not by what the prefix promises.
  if (!buf_add(&f->body, in->p, n))
    return GRPC_FRAME_NOMEM;
  *in = str_skip(*in, n);
  if (n < missing)
    return GRPC_FRAME_NONE;
  *message = buf_view(&f->body);
  f->prefix_n = 0;
  return GRPC_FRAME_MESSAGE;
}

bool grpc_next_message(struct grpc_frames *f, struct str *in, struct str *message, struct err *e)
{
  switch (grpc_frames_next(f, in, message)) {
  case GRPC_FRAME_MESSAGE:
    if (!(f->prefix[0] & GRPC_COMPRESSED))
      return true;
    buf_free(&f->plain);
    f->plain.max = f->max;
    if (!grpc_unzip(*message, &f->plain, e))
      return false;
    *message = buf_view(&f->plain);
    return true;
  case GRPC_FRAME_NONE:
    return false;
  case GRPC_FRAME_TOO_LARGE:
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the request message is over max_message_bytes (%zu)", f->max);
  case GRPC_FRAME_FLAG:
    return err_set(e, CODE_INTERNAL, REASON_INVALID_REQUEST, "a message has flags 0x%02x, of which only 0x%02x may be set here%s", f->prefix[0],
                   f->allowed, f->allowed ? "" : ": the request declares no compression");
  case GRPC_FRAME_NOMEM:
    break;
  }
  return err_nomem(e);
}

void grpc_frames_free(struct grpc_frames *f)
{
  buf_free(&f->body);
  buf_free(&f->plain);
  f->prefix_n = 0;
}

bool grpc_unzip(struct str message, struct buf *out, struct err *e)
{
  if (!message.n)
    return true;
  switch (gzip_inflate(message, out)) {
  case GZIP_OK:
    return true;
  case GZIP_TOO_LARGE:
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE,
                   "the request message is over max_message_bytes (%zu) when it is decompressed", out->max);
  case GZIP_BAD:
    return err_set(e, CODE_INTERNAL, REASON_INVALID_REQUEST, "a message is said to be compressed by gzip, and is not");
  case GZIP_NOMEM:
    break;
  }
  return err_nomem(e);
}

void grpc_zip(struct buf *message, uint8_t *flags)
{
  if (message->n < ZIP_AT_LEAST)
    return;
  struct buf zipped = {.max = message->max};
  if (!gzip_deflate(buf_view(message), &zipped)) {
    buf_free(&zipped);
    return;
  }
  buf_free(message);
  *message = zipped;
  *flags |= GRPC_COMPRESSED;
}

bool grpc_prefix(uint8_t to[GRPC_PREFIX], uint8_t flags, size_t n)
{
  if (n > UINT32_MAX)
    return false;
  to[0] = flags;
  to[1] = (uint8_t)(n >> 24);
  to[2] = (uint8_t)(n >> 16);
  to[3] = (uint8_t)(n >> 8);
  to[4] = (uint8_t)n;
  return true;
}

bool grpc_percent_encode(struct str text, struct buf *out)
{
  static const char hex[] = "0123456789ABCDEF";
  for (size_t i = 0; i < text.n;) {
    size_t n = utf8_length(text.p + i, text.n - i);
    if (!n)
      n = 1;
    char *to = buf_reserve(out, 3 * n);
    if (!to)
      return i > 0;
    for (size_t end = i + n; i < end; i++) {
      unsigned char c = (unsigned char)text.p[i];
      if (c >= 0x20 && c <= 0x7E && c != '%') {
        *to++ = (char)c;
        out->n++;
      } else {
        *to++ = '%';
        *to++ = hex[c >> 4];
        *to++ = hex[c & 15];
        out->n += 3;
      }
    }
  }
  return true;
}

bool grpc_base64(struct str bytes, struct buf *out)
{
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t n = (bytes.n * 4 + 2) / 3;
  char *to = buf_reserve(out, n);
  if (!to)
    return false;
  const unsigned char *p = (const unsigned char *)bytes.p;
  for (size_t i = 0; i < bytes.n; i += 3) {
    uint32_t three = (uint32_t)p[i] << 16;
    if (i + 1 < bytes.n)
      three |= (uint32_t)p[i + 1] << 8;
    if (i + 2 < bytes.n)
      three |= p[i + 2];
    *to++ = digits[three >> 18];
    *to++ = digits[three >> 12 & 63];
    if (i + 1 < bytes.n)
      *to++ = digits[three >> 6 & 63];
    if (i + 2 < bytes.n)
      *to++ = digits[three & 63];
  }
  out->n += n;
  return true;
}
