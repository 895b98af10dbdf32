// SPDX-License-Identifier: Apache-2.0
#include "envgate_connect.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_MAX = 64 << 20, URL_MAX = 1024 };

struct envgate_client {
  CURLM *multi; // one handle in it: a wait that another thread can wake
  CURL *easy;
  char *url, *authorization;
  unsigned char *reply;
  size_t reply_n, reply_cap;
  atomic_bool running, cancelled;
  enum envgate_code code;
  char message[1024];
  cJSON *details; // an array; of Connect's error
  cJSON *error;
};

static char *copy(const char *s)
{
  char *c = malloc(strlen(s) + 1);
  return c ? strcpy(c, s) : NULL;
}

struct envgate_client *envgate_client_new(const char *url, const char *authorization)
{
  struct envgate_client *c = calloc(1, sizeof *c);
  if (!c)
    return NULL;
  size_t n = strlen(url);
  c->multi = curl_multi_init();
  c->easy = curl_easy_init();
  c->url = copy(url);
  c->authorization = authorization ? copy(authorization) : NULL;
  if (!c->multi || !c->easy || !c->url || (authorization && !c->authorization)) {
    envgate_client_free(c);
    return NULL;
  }
  if (n && c->url[n - 1] == '/')
    c->url[n - 1] = '\0';
  return c;
}

void envgate_client_free(struct envgate_client *c)
{
  if (!c)
    return;
  curl_easy_cleanup(c->easy);
  curl_multi_cleanup(c->multi);
  cJSON_Delete(c->error);
  free(c->url);
  free(c->authorization);
  free(c->reply);
  free(c);
}

void envgate_cancel(struct envgate_client *c)
{
  if (!atomic_load(&c->running))
    return;
  atomic_store(&c->cancelled, true);
  curl_multi_wakeup(c->multi);
}

enum envgate_code envgate_code(const struct envgate_client *c)
{
  return c->code;
}

const char *envgate_message(const struct envgate_client *c)
{
  return c->message;
}

static void fail(struct envgate_client *c, enum envgate_code code, const char *message)
{
  c->code = code;
  snprintf(c->message, sizeof c->message, "%s", message);
}

// --- errors ---

static const char *const names[] = {
    "ok",        "canceled",        "unknown",           "invalid_argument",   "deadline_exceeded",
    "not_found", "already_exists",  "permission_denied", "resource_exhausted", "failed_precondition",
    "aborted",   "out_of_range",    "unimplemented",     "internal",           "unavailable",
    "data_loss", "unauthenticated",
};

// What a reply means that is not Connect's, as from a proxy.
static enum envgate_code code_of_http(long status)
{
  switch (status) {
  case 400:
    return ENVGATE_INTERNAL;
  case 401:
    return ENVGATE_UNAUTHENTICATED;
  case 403:
    return ENVGATE_PERMISSION_DENIED;
  case 404:
    return ENVGATE_UNIMPLEMENTED;
  case 429:
  case 502:
  case 503:
  case 504:
    return ENVGATE_UNAVAILABLE;
  default:
    return ENVGATE_UNKNOWN;
  }
}

// {"code": "not_found", "message": "…", "details": [{"type": "google.rpc.ErrorInfo", "value": "<base64>"}]}
static void take_error(struct envgate_client *c, long status)
{
  char text[64];
  snprintf(text, sizeof text, "HTTP status %ld", status);
  fail(c, code_of_http(status), text);
  c->error = cJSON_ParseWithLength((const char *)c->reply, c->reply_n);
  const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(c->error, "code"));
  for (size_t i = 1; name && i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0)
      fail(c, (enum envgate_code)i, "");
  const char *message = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(c->error, "message"));
  if (message)
    fail(c, c->code, message);
  c->details = cJSON_GetObjectItemCaseSensitive(c->error, "details");
}

static int base64_value(char c)
{
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *at = c ? strchr(alphabet, c) : NULL;
  return at ? (int)(at - alphabet) : -1;
}

// Base64 with or without padding, in place. Returns how many bytes.
static size_t base64_decode(char *text)
{
  unsigned bits = 0, count = 0;
  size_t n = 0;
  for (const char *p = text; base64_value(*p) >= 0; p++) {
    bits = (bits << 6 | (unsigned)base64_value(*p)) & 0xFFFF;
    count += 6;
    if (count >= 8) {
      count -= 8;
      text[n++] = (char)(bits >> count);
    }
  }
  return n;
}

ProtobufCMessage *envgate_detail(const struct envgate_client *c, const ProtobufCMessageDescriptor *type)
{
  const cJSON *detail;
  cJSON_ArrayForEach(detail, c->details)
  {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "type"));
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "value"));
    if (!name || !value || strcmp(name, type->name) != 0)
      continue;
    char *bytes = copy(value);
    if (!bytes)
      return NULL;
    size_t n = base64_decode(bytes);
    ProtobufCMessage *m = protobuf_c_message_unpack(type, NULL, n, (const uint8_t *)bytes);
    free(bytes);
    return m;
  }
  return NULL;
}

// --- calls ---

static size_t take_bytes(char *bytes, size_t size, size_t count, void *arg)
{
  struct envgate_client *c = arg;
  size_t n = size * count;
  if (n > REPLY_MAX - c->reply_n)
    return 0;
  if (c->reply_n + n > c->reply_cap) {
    size_t cap = (c->reply_n + n) * 2;
    unsigned char *more = realloc(c->reply, cap);
    if (!more)
      return 0;
    c->reply = more;
    c->reply_cap = cap;
  }
  memcpy(c->reply + c->reply_n, bytes, n);
  c->reply_n += n;
  return n;
}

// Runs the request to its end, or until it is cancelled. curl's verdict.
static CURLcode run(struct envgate_client *c)
{
  int left = 1;
  CURLcode result = CURLE_OK;
  if (curl_multi_add_handle(c->multi, c->easy) != CURLM_OK)
    return CURLE_FAILED_INIT;
  while (left && !atomic_load(&c->cancelled)) {
    if (curl_multi_perform(c->multi, &left) != CURLM_OK)
      break;
    if (left)
      curl_multi_poll(c->multi, NULL, 0, 1000, NULL);
  }
  if (left)
    result = atomic_load(&c->cancelled) ? CURLE_ABORTED_BY_CALLBACK : CURLE_FAILED_INIT;
  int messages;
  for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &messages));)
    if (m->msg == CURLMSG_DONE)
      result = m->data.result;
  curl_multi_remove_handle(c->multi, c->easy);
  return result;
}

static struct curl_slist *headers_of(const struct envgate_client *c, long timeout_ms)
{
  char text[2048];
  struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/proto");
  headers = curl_slist_append(headers, "Connect-Protocol-Version: 1");
  headers = curl_slist_append(headers, "Expect:"); // large bodies go at once
  if (timeout_ms > 0) {
    snprintf(text, sizeof text, "Connect-Timeout-Ms: %ld", timeout_ms);
    headers = curl_slist_append(headers, text);
  }
  if (c->authorization) {
    snprintf(text, sizeof text, "Authorization: %s", c->authorization);
    headers = curl_slist_append(headers, text);
  }
  return headers;
}

// Posts the bytes and takes the reply or the error.
static void post(struct envgate_client *c, const char *url, const uint8_t *bytes, size_t n, long timeout_ms)
{
  struct curl_slist *headers = headers_of(c, timeout_ms);
  curl_easy_setopt(c->easy, CURLOPT_URL, url);
  curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, bytes);
  curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
  curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, take_bytes);
  curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, c);
  curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, timeout_ms > 0 ? timeout_ms : 0L);
  curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
  CURLcode result = run(c);
  long status = 0;
  curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
  if (result == CURLE_ABORTED_BY_CALLBACK)
    fail(c, ENVGATE_CANCELLED, "the call was cancelled");
  else if (result == CURLE_OPERATION_TIMEDOUT)
    fail(c, ENVGATE_DEADLINE_EXCEEDED, "the deadline has passed");
  else if (result != CURLE_OK)
    fail(c, ENVGATE_UNAVAILABLE, curl_easy_strerror(result));
  else if (status != 200)
    take_error(c, status);
  curl_slist_free_all(headers);
}

ProtobufCMessage *envgate_call(struct envgate_client *c, const ProtobufCServiceDescriptor *service, const char *method,
                               const ProtobufCMessage *request, long timeout_ms)
{
  char url[URL_MAX];
  const ProtobufCMethodDescriptor *m = protobuf_c_service_descriptor_get_method_by_name(service, method);
  ProtobufCMessage *reply = NULL;
  cJSON_Delete(c->error);
  c->error = c->details = NULL;
  c->reply_n = 0;
  fail(c, ENVGATE_OK, "");
  if (!m || m->input != request->descriptor || (size_t)snprintf(url, sizeof url, "%s/%s/%s", c->url, service->name, method) >= sizeof url) {
    fail(c, ENVGATE_INVALID_ARGUMENT, "no such method, or not its request");
    return NULL;
  }
  size_t n = protobuf_c_message_get_packed_size(request);
  uint8_t *bytes = malloc(n ? n : 1);
  if (!bytes) {
    fail(c, ENVGATE_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  protobuf_c_message_pack(request, bytes);
  atomic_store(&c->cancelled, false);
  atomic_store(&c->running, true);
  post(c, url, bytes, n, timeout_ms);
  atomic_store(&c->running, false);
  free(bytes);
  if (c->code == ENVGATE_OK) {
    reply = protobuf_c_message_unpack(m->output, NULL, c->reply_n, c->reply ? c->reply : (const uint8_t *)"");
    if (!reply)
      fail(c, ENVGATE_INTERNAL, "the reply is malformed");
  }
  return reply;
}
