// SPDX-License-Identifier: Apache-2.0
#include "front/connect_wire.h"

#include "base/percent.h"
#include "front/grpc_wire.h"
#include "google/rpc/status.pb-c.h"
#include "transcode/text.h"

// The media type without its parameters.
static struct str media_type(struct str value)
{
  const char *semicolon = value.n ? memchr(value.p, ';', value.n) : NULL;
  if (semicolon)
    value.n = (size_t)(semicolon - value.p);
  while (value.n && (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t'))
    value.n--;
  return value;
}

bool connect_content_type(struct str value, bool *stream, enum codec *codec)
{
  static const struct {
    const char *type;
    bool stream;
    enum codec codec;
  } types[] = {
      {"application/proto", false, CODEC_PROTO},
      {"application/json", false, CODEC_JSON},
      {"application/connect+proto", true, CODEC_PROTO},
      {"application/connect+json", true, CODEC_JSON},
  };
  value = media_type(value);
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (!str_ieq(value, str_c(types[i].type)))
      continue;
    *stream = types[i].stream;
    *codec = types[i].codec;
    return true;
  }
  return false;
}

bool connect_timeout(struct str value, nsec *timeout)
{
  enum { DIGITS = 10 };
  if (!value.n || value.n > DIGITS)
    return false;
  uint64_t ms = 0;
  for (size_t i = 0; i < value.n; i++) {
    if (value.p[i] < '0' || value.p[i] > '9')
      return false;
    ms = ms * 10 + (uint64_t)(value.p[i] - '0');
  }
  *timeout = ms * NSEC_PER_MS;
  return true;
}

// --- GET -----------------------------------------------------------------------------------------------------------------------------------

// What a query's parameters are before they are put together.
struct parameters {
  struct str encoding, message, base64, compression, connect;
};

static struct str *parameter(struct parameters *p, struct str name)
{
  struct {
    struct str name;
    struct str *value;
  } known[] = {
      {STR("encoding"), &p->encoding},       {STR("message"), &p->message}, {STR("base64"), &p->base64},
      {STR("compression"), &p->compression}, {STR("connect"), &p->connect},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (str_eq(name, known[i].name))
      return known[i].value;
  return NULL;
}

static bool take_parameter(struct parameters *p, struct str pair, struct arena *a, struct err *e)
{
  const char *equals = memchr(pair.p, '=', pair.n);
  struct str name = {pair.p, equals ? (size_t)(equals - pair.p) : pair.n};
  struct str text = equals ? str_skip(pair, name.n + 1) : STR("");
  struct str *value = parameter(p, name);
  if (!value)
    return true;
  if (value->p)
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the query has \"%.*s\" twice", STR_ARG(name));
  char *to = arena_alloc(a, text.n + 1);
  if (!to)
    return err_nomem(e);
  if (!percent_decode(text, (struct percent_decoding){.plus_is_space = true}, to, &value->n))
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the query's \"%.*s\" has a \"%%\" without two hexadecimal digits",
                   STR_ARG(name));
  value->p = to;
  return true;
}

static bool read_query(struct str query, struct parameters *p, struct arena *a, struct err *e)
{
  while (query.n) {
    const char *amp = memchr(query.p, '&', query.n);
    struct str pair = {query.p, amp ? (size_t)(amp - query.p) : query.n};
    if (pair.n && !take_parameter(p, pair, a, e))
      return false;
    query = str_skip(query, pair.n + (amp ? 1 : 0));
  }
  return true;
}

static bool invalid(struct err *e, const char *text)
{
  return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "%s", text);
}

static bool from_base64(struct str *message, struct arena *a, struct err *e)
{
  uint8_t *to = arena_alloc(a, message->n / 4 * 3 + 3);
  if (!to)
    return err_nomem(e);
  size_t n;
  if (!base64_decode(*message, to, &n))
    return invalid(e, "the query's \"message\" is not base64, though base64=1 says so");
  *message = (struct str){(const char *)to, n};
  return true;
}

bool connect_query(struct str query, struct arena *a, struct connect_get *get, bool *unsupported, struct err *e)
{
  struct parameters p = {0};
  *unsupported = false;
  if (!read_query(query, &p, a, e))
    return false;
  if (p.connect.p && !str_eq(p.connect, STR("v1")))
    return invalid(e, "the query's \"connect\" must be v1");
  if (!p.message.p || !p.encoding.p)
    return invalid(e, "a call by GET needs \"message\" and \"encoding\" in the query");
  if (str_eq(p.encoding, STR("proto"))) {
    get->codec = CODEC_PROTO;
  } else if (str_eq(p.encoding, STR("json"))) {
    get->codec = CODEC_JSON;
  } else {
    *unsupported = true;
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE, "the query's \"encoding\" must be proto or json");
  }
  get->gzip = str_eq(p.compression, STR("gzip"));
  if (p.compression.n && !get->gzip && !str_eq(p.compression, STR("identity")))
    return err_set(e, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "the query's \"compression\" must be gzip or identity");
  if (p.base64.p && !str_eq(p.base64, STR("1")) && !str_eq(p.base64, STR("0")))
    return invalid(e, "the query's \"base64\" must be 1 or 0");
  get->message = p.message;
  return !str_eq(p.base64, STR("1")) || from_base64(&get->message, a, e);
}

// --- errors --------------------------------------------------------------------------------------------------------------------------------

static const char *connect_code(enum code code)
{
  static const char *const names[] = {
      [CODE_CANCELLED] = "canceled",
      [CODE_UNKNOWN] = "unknown",
      [CODE_INVALID_ARGUMENT] = "invalid_argument",
      [CODE_DEADLINE_EXCEEDED] = "deadline_exceeded",
      [CODE_NOT_FOUND] = "not_found",
      [CODE_ALREADY_EXISTS] = "already_exists",
      [CODE_PERMISSION_DENIED] = "permission_denied",
      [CODE_RESOURCE_EXHAUSTED] = "resource_exhausted",
      [CODE_FAILED_PRECONDITION] = "failed_precondition",
      [CODE_ABORTED] = "aborted",
      [CODE_OUT_OF_RANGE] = "out_of_range",
      [CODE_UNIMPLEMENTED] = "unimplemented",
      [CODE_INTERNAL] = "internal",
      [CODE_UNAVAILABLE] = "unavailable",
      [CODE_DATA_LOSS] = "data_loss",
      [CODE_UNAUTHENTICATED] = "unauthenticated",
  };
  return (size_t)code < sizeof names / sizeof *names && names[code] ? names[code] : "unknown";
}

// The same as REST's but for two.
int connect_http_status(enum code code)
{
  if (code == CODE_CANCELLED)
    return 499;
  if (code == CODE_DEADLINE_EXCEEDED)
    return 504;
  return code_http_status(code);
}

static bool error_detail(const Google__Protobuf__Any *detail, bool first, struct buf *out)
{
  const char *slash = strrchr(detail->type_url, '/');
  return (first || buf_char(out, ',')) && buf_str(out, STR("{\"type\":")) && buf_json_string(out, str_c(slash ? slash + 1 : detail->type_url)) &&
         buf_str(out, STR(",\"value\":\"")) && grpc_base64((struct str){(const char *)detail->value.data, detail->value.len}, out) &&
         buf_str(out, STR("\"}"));
}

static bool error_details(const Google__Rpc__Status *status, struct buf *out)
{
  if (!status->n_details)
    return true;
  bool ok = buf_str(out, STR(",\"details\":["));
  for (size_t i = 0; ok && i < status->n_details; i++)
    ok = error_detail(status->details[i], i == 0, out);
  return ok && buf_char(out, ']');
}

bool connect_error(const struct call *c, const struct err *e, struct buf *out)
{
  enum { STATUS_BYTES = 65536 };
  struct arena a;
  arena_init(&a, STATUS_BYTES);
  const Google__Rpc__Status *status = call_status(c, e, &a);
  bool ok = status && buf_printf(out, "{\"code\":\"%s\"", connect_code(e->code)) &&
            (!e->msg[0] || (buf_str(out, STR(",\"message\":")) && buf_json_string(out, str_c(e->msg)))) && error_details(status, out) &&
            buf_char(out, '}');
  arena_free(&a);
  return ok;
}

static bool seen_before(const struct headers *h, size_t i)
{
  for (size_t k = 0; k < i; k++)
    if (str_eq(h->at[k].name, h->at[i].name))
      return true;
  return false;
}

static bool metadata(const struct headers *h, struct buf *out)
{
  bool ok = buf_str(out, STR("\"metadata\":{"));
  for (size_t i = 0, names = 0; ok && i < h->n; i++) {
    if (seen_before(h, i))
      continue;
    ok = (!names++ || buf_char(out, ',')) && buf_json_string(out, h->at[i].name) && buf_str(out, STR(":["));
    for (size_t k = i, values = 0; ok && k < h->n; k++)
      if (str_eq(h->at[k].name, h->at[i].name))
        ok = (!values++ || buf_char(out, ',')) && buf_json_string(out, h->at[k].value);
    ok = ok && buf_char(out, ']');
  }
  return ok && buf_char(out, '}');
}

bool connect_end(const struct call *c, const struct err *e, struct buf *out)
{
  const struct headers *trailers = c->extra ? &c->extra->trailers : NULL;
  bool some = trailers && trailers->n;
  return buf_char(out, '{') && (!e || (buf_str(out, STR("\"error\":")) && connect_error(c, e, out))) && (!e || !some || buf_char(out, ',')) &&
         (!some || metadata(trailers, out)) && buf_char(out, '}');
}
