// SPDX-License-Identifier: Apache-2.0
#include "upstream/ws_handshake.h"

#include <openssl/evp.h>

#include "base/id.h"

enum { KEY_BYTES = 16, KEY_TEXT = 24, SHA1_BYTES = 20 };

static bool make_accept(const char key[KEY_TEXT + 1], struct ws_accept *accept)
{
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455 section 1.3
  char text[KEY_TEXT + sizeof guid - 1];
  memcpy(text, key, KEY_TEXT);
  memcpy(text + KEY_TEXT, guid, sizeof guid - 1);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  if (!EVP_Digest(text, sizeof text, digest, &n, EVP_sha1(), NULL) || n != SHA1_BYTES)
    return false;
  EVP_EncodeBlock((unsigned char *)accept->text, digest, SHA1_BYTES);
  return true;
}

static bool put_headers(struct buf *out, const struct pairs *headers)
{
  bool ok = true;
  for (size_t i = 0; ok && headers && i < headers->n; i++)
    ok = buf_printf(out, "%s: %s\r\n", headers->at[i].name, headers->at[i].value);
  return ok;
}

bool ws_handshake_request(struct buf *out, const char *host, const char *base, const char *path, const struct pairs *headers,
                          const struct pairs *more, struct ws_accept *accept)
{
  unsigned char raw[KEY_BYTES];
  char key[KEY_TEXT + 1];
  random_bytes(raw, sizeof raw);
  EVP_EncodeBlock((unsigned char *)key, raw, KEY_BYTES);
  bool ok = make_accept(key, accept) && buf_printf(out,
                                                   "GET %s%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                                   "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n",
                                                   base, path, host, key);
  return ok && put_headers(out, headers) && put_headers(out, more) && buf_str(out, STR("\r\n"));
}

bool ws_handshake_accept(struct str key, struct ws_accept *accept)
{
  // 16 bytes are 22 characters of base64 and two of padding.
  char text[KEY_TEXT + 1];
  unsigned char raw[KEY_BYTES + 2];
  if (key.n != KEY_TEXT || key.p[KEY_TEXT - 1] != '=' || key.p[KEY_TEXT - 2] != '=')
    return false;
  memcpy(text, key.p, KEY_TEXT);
  text[KEY_TEXT] = '\0';
  return EVP_DecodeBlock(raw, (const unsigned char *)text, KEY_TEXT) == (int)sizeof raw && make_accept(text, accept);
}

// --- the reply -------------------------------------------------------------------------------------------------------------------------

// Cuts the next line off `in`, without its CRLF. False when there is none, or one with a bare CR or LF, or a NUL.
static bool next_line(struct str *in, struct str *line)
{
  const char *end = in->n ? memchr(in->p, '\n', in->n) : NULL;
  if (!end || end == in->p || end[-1] != '\r')
    return false;
  *line = (struct str){in->p, (size_t)(end - in->p) - 1};
  *in = str_skip(*in, line->n + 2);
  return line->n == 0 || (!memchr(line->p, '\r', line->n) && !memchr(line->p, '\0', line->n));
}

static bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

// "HTTP/1.1 101 Switching Protocols"
static bool parse_status(struct str line, int *status)
{
  if (line.n < 12 || !str_starts(line, STR("HTTP/1.1 ")) || (line.n > 12 && line.p[12] != ' '))
    return false;
  const char *d = line.p + 9;
  if (!is_digit(d[0]) || !is_digit(d[1]) || !is_digit(d[2]))
    return false;
  *status = (d[0] - '0') * 100 + (d[1] - '0') * 10 + (d[2] - '0');
  return true;
}

bool ws_handshake_lists(struct str list, struct str token)
{
  while (list.n)
    if (str_ieq(str_trim(str_cut(&list, ',')), token))
      return true;
  return false;
}

struct seen {
  bool upgrade, connection, accept;
};

// RFC 6455 section 4.1, the client's checks 2 to 6. We offer no extension and no subprotocol, so the server may name none.
static const char *check_header(struct str line, const struct ws_accept *accept, struct seen *seen)
{
  const char *colon = line.n ? memchr(line.p, ':', line.n) : NULL;
  if (!colon || colon == line.p || colon[-1] == ' ' || colon[-1] == '\t')
    return "the upgrade's reply has a malformed header";
  struct str name = {line.p, (size_t)(colon - line.p)}, value = str_trim(str_skip(line, name.n + 1));
  if (str_ieq(name, STR("Upgrade"))) {
    seen->upgrade = str_ieq(value, STR("websocket"));
  } else if (str_ieq(name, STR("Connection"))) {
    seen->connection = seen->connection || ws_handshake_lists(value, STR("upgrade"));
  } else if (str_ieq(name, STR("Sec-WebSocket-Accept"))) {
    if (seen->accept || !str_eq(value, str_c(accept->text)))
      return "the upgrade's reply has a wrong Sec-WebSocket-Accept";
    seen->accept = true;
  } else if (str_ieq(name, STR("Sec-WebSocket-Extensions")) || str_ieq(name, STR("Sec-WebSocket-Protocol"))) {
    return "the upgrade's reply names an extension or subprotocol that was not offered";
  }
  return NULL;
}

enum ws_handshake ws_handshake_reply(struct str bytes, const struct ws_accept *accept, size_t *head, int *status, const char **problem)
{
  struct str seen_bytes = {bytes.p, bytes.n < WS_HEAD_MAX ? bytes.n : WS_HEAD_MAX};
  const char *end = seen_bytes.n ? memmem(seen_bytes.p, seen_bytes.n, "\r\n\r\n", 4) : NULL;
  if (!end) {
    *problem = "the upgrade's reply has no end within 8 KiB";
    return seen_bytes.n < WS_HEAD_MAX ? WS_HANDSHAKE_MORE : WS_HANDSHAKE_BAD;
  }
  *head = (size_t)(end - bytes.p) + 4;
  struct str in = {bytes.p, *head - 2}, line;
  *problem = "the upgrade's reply is not HTTP/1.1";
  if (!next_line(&in, &line) || !parse_status(line, status))
    return WS_HANDSHAKE_BAD;
  if (*status != 101)
    return WS_HANDSHAKE_STATUS;
  struct seen seen = {0};
  while (in.n) {
    *problem = "the upgrade's reply has a malformed header";
    if (!next_line(&in, &line))
      return WS_HANDSHAKE_BAD;
    *problem = check_header(line, accept, &seen);
    if (*problem)
      return WS_HANDSHAKE_BAD;
  }
  if (seen.upgrade && seen.connection && seen.accept)
    return WS_HANDSHAKE_OK;
  *problem = "the upgrade's reply lacks Upgrade, Connection or Sec-WebSocket-Accept";
  return WS_HANDSHAKE_BAD;
}
