// SPDX-License-Identifier: Apache-2.0
// Frames and the handshake, without a socket.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "upstream/ws_frames.h"
#include "upstream/ws_handshake.h"

// What was read, as text: "T5 P0 C1000 E1002" and so on, each with its length or code.
struct heard {
  char events[256];
  char last[200];
};

static void note(struct heard *h, char what, size_t n)
{
  size_t at = strlen(h->events);
  snprintf(h->events + at, sizeof h->events - at, "%s%c%zu", at ? " " : "", what, n);
}

static void keep(struct heard *h, struct str s)
{
  snprintf(h->last, sizeof h->last, "%.*s", (int)(s.n < 199 ? s.n : 199), s.n ? s.p : "");
}

static void feed(struct ws_frames *f, struct str in, struct heard *h)
{
  for (;;) {
    struct ws_event ev;
    switch (ws_frames_read(f, &in, &ev)) {
    case WS_EVENT_NONE:
      assert_int_equal(in.n, 0);
      return;
    case WS_EVENT_MESSAGE:
      note(h, 'T', ev.message->buf.n);
      keep(h, buf_view(&ev.message->buf));
      assert_int_equal(ev.message->buf.p[ev.message->buf.n], 0);
      shared_unref(ev.message);
      break;
    case WS_EVENT_PING:
      note(h, 'P', ev.payload.n);
      keep(h, ev.payload);
      break;
    case WS_EVENT_PONG:
      note(h, 'O', ev.payload.n);
      break;
    case WS_EVENT_CLOSE:
      note(h, 'C', (size_t)ev.code);
      keep(h, ev.payload);
      break;
    case WS_EVENT_ERROR:
      note(h, 'E', (size_t)ev.code);
      assert_non_null(ev.problem);
      break;
    }
  }
}

// Feeds `in` whole, and again in pieces of 1, 2 and 3 bytes from memory of just their size: the events must be the same.
static struct heard reads(struct str in, size_t max_message, const char *want)
{
  struct heard first = {{0}, {0}};
  for (size_t step = 0; step <= 3; step++) {
    struct ws_coders coders;
    assert_true(ws_coders_init(&coders));
    struct ws_frames f = {.coders = &coders, .max_message = max_message};
    struct heard h = {{0}, {0}};
    size_t size = step ? step : in.n;
    for (size_t at = 0; at < in.n; at += size) {
      size_t n = in.n - at < size ? in.n - at : size;
      char *copy = malloc(n);
      assert_non_null(copy);
      memcpy(copy, in.p + at, n);
      feed(&f, (struct str){copy, n}, &h);
      free(copy);
    }
    ws_frames_free(&f);
    ws_coders_free(&coders);
    assert_string_equal(h.events, want);
    if (!step)
      first = h;
    assert_string_equal(h.last, first.last);
  }
  return first;
}

static void messages(void **state)
{
  (void)state;
  assert_string_equal(reads(STR("\x81\x05hello"), 100, "T5").last, "hello");
  reads(STR("\x81\x00"), 100, "T0");
  reads(STR("\x81\x01"
            "a\x81\x02"
            "bc\x81\x00"),
        100, "T1 T2 T0");
  // Fragments, empty ones too, with a ping and a pong between them.
  struct heard h = reads(STR("\x01\x03"
                             "abc\x89\x02hi\x00\x00\x8A\x00\x00\x01"
                             "d\x80\x01"
                             "e"),
                         100, "P2 O0 T5");
  assert_string_equal(h.last, "abcde");
}

static void longer_lengths(void **state)
{
  (void)state;
  static char text[4 + 70000];
  memset(text, 'x', sizeof text);
  memcpy(text, "\x81\x7E\x01\x00", 4);
  reads((struct str){text, 4 + 256}, 256, "T256");
  static char big[10 + 70000];
  memset(big, 'y', sizeof big);
  memcpy(big, "\x81\x7F\x00\x00\x00\x00\x00\x01\x11\x70", 10);
  reads((struct str){big, sizeof big}, 70000, "T70000");
}

// Large frames are received where they belong, `step` bytes at a time, and what is too small for that is read as ever.
static void received_in_place(void **state)
{
  (void)state;
  enum { FIRST = 300000, SECOND = 70000 };
  struct buf in = {0}, want = {0};
  for (size_t i = 0; i < FIRST + SECOND; i++)
    assert_true(buf_char(&want, (char)('!' + i * 7 % 91)));
  assert_true(buf_add(&in, "\x01\x7F\x00\x00\x00\x00\x00\x04\x93\xE0", 10) && buf_add(&in, want.p, FIRST));
  assert_true(buf_add(&in, "\x89\x02hi", 4));
  assert_true(buf_add(&in, "\x80\x7F\x00\x00\x00\x00\x00\x01\x11\x70", 10) && buf_add(&in, want.p + FIRST, SECOND));
  assert_true(buf_add(&in, "\x81\x02ok", 4));
  for (size_t step = 999; step < 500000; step *= 7) {
    struct ws_coders coders;
    assert_true(ws_coders_init(&coders));
    struct ws_frames f = {.coders = &coders, .max_message = FIRST + SECOND};
    size_t in_place = 0, messages = 0, pings = 0;
    struct str left = buf_view(&in);
    while (left.n) {
      char *to = NULL;
      size_t room = ws_frames_room(&f, &to), n = left.n < step ? left.n : step;
      struct str piece = {left.p, room && room < n ? room : n};
      left = str_skip(left, piece.n);
      in_place += room ? piece.n : 0;
      if (room)
        memcpy(to, piece.p, piece.n);
      struct ws_event ev;
      enum ws_event_type type = room ? ws_frames_received(&f, piece.n, &ev) : ws_frames_read(&f, &piece, &ev);
      for (; type != WS_EVENT_NONE; type = room ? WS_EVENT_NONE : ws_frames_read(&f, &piece, &ev)) {
        pings += type == WS_EVENT_PING;
        if (type != WS_EVENT_MESSAGE) {
          assert_int_equal(type, WS_EVENT_PING);
          continue;
        }
        struct str expected = messages++ ? STR("ok") : buf_view(&want);
        assert_int_equal(ev.message->buf.n, expected.n);
        assert_memory_equal(ev.message->buf.p, expected.p, expected.n);
        assert_int_equal(ev.message->buf.p[expected.n], 0);
        shared_unref(ev.message);
      }
    }
    assert_int_equal(messages, 2);
    assert_int_equal(pings, 1);
    assert_true(step > FIRST || in_place > SECOND);
    assert_int_equal(ws_frames_coming(&f), 0);
    assert_int_equal(coders.n_idle, 1);
    ws_frames_free(&f);
    ws_coders_free(&coders);
  }
  // What is to come is known as soon as it is announced.
  struct ws_coders coders;
  assert_true(ws_coders_init(&coders));
  struct ws_frames f = {.coders = &coders, .max_message = FIRST + SECOND};
  struct ws_event ev;
  struct str head = {in.p, 30};
  assert_int_equal(ws_frames_read(&f, &head, &ev), WS_EVENT_NONE);
  assert_int_equal(ws_frames_coming(&f), FIRST);
  ws_frames_free(&f);
  ws_coders_free(&coders);
  buf_free(&in);
  buf_free(&want);
}

static void limits(void **state)
{
  (void)state;
  reads(STR("\x81\x05hello"), 5, "T5");
  reads(STR("\x81\x05hello"), 4, "E1009");
  reads(STR("\x01\x03"
            "abc\x80\x03"
            "def"),
        5, "E1009");
  // What is announced is refused before it comes, and no memory is taken for it.
  reads(STR("\x81\x7F\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFFx"), 1000, "E1009");
  reads(STR("\x81\x7F\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFFx"), SIZE_MAX / 4, "E1009");
}

static void what_breaks_the_protocol(void **state)
{
  (void)state;
  reads(STR("\x81\x85\0\0\0\0hello"), 100, "E1002"); // masked
  reads(STR("\xC1\x05hello"), 100, "E1002");         // a reserved bit
  reads(STR("\x82\x05hello"), 100, "E1003");         // binary
  reads(STR("\x80\x05hello"), 100, "E1002");         // continues nothing
  reads(STR("\x01\x01"
            "a\x81\x01"
            "b"),
        100, "E1002");                  // inside another
  reads(STR("\x83\x00"), 100, "E1002"); // opcodes that are not
  reads(STR("\x8B\x00"), 100, "E1002");
  reads(STR("\x09\x00"), 100, "E1002");              // a control frame in fragments
  reads(STR("\x89\x7E\x00\x7E"), 100, "E1002");      // a long control frame
  reads(STR("\x81\x7E\x00\x05hello"), 100, "E1002"); // lengths not in their shortest form
  reads(STR("\x81\x7F\0\0\0\0\0\0\0\x05hello"), 100, "E1002");
  reads(STR("\x81\x7F\x80\0\0\0\0\0\0\x05hello"), 100, "E1002");
  reads(STR("\x88\x00\x81\x05hello"), 100, "C1005"); // nothing counts after a close frame
  reads(STR("\x83\x00\x81\x05hello"), 100, "E1002"); // nor after an error
}

static void closes(void **state)
{
  (void)state;
  reads(STR("\x88\x00"), 100, "C1005");
  assert_string_equal(reads(STR("\x88\x06\x03\xF4"
                                "bye!"),
                            100, "C1012")
                          .last,
                      "bye!");
  reads(STR("\x88\x02\x0F\xA0"), 100, "C4000");
  reads(STR("\x88\x01\x03"), 100, "E1002");
  reads(STR("\x88\x02\x03\xED"), 100, "E1002"); // 1005 may not be sent
  reads(STR("\x88\x02\x03\xE7"), 100, "E1002"); // 999
  reads(STR("\x88\x02\x13\x88"), 100, "E1002"); // 5000
}

static void what_is_cut_off_gives_nothing(void **state)
{
  (void)state;
  struct str whole = STR("\x81\x05hello");
  for (size_t n = 1; n < whole.n; n++)
    reads((struct str){whole.p, n}, 100, "");
}

// A socket that waits for its next message holds no coder, and one in the middle of a frame holds one.
static void coders_are_given_back(void **state)
{
  (void)state;
  struct ws_coders coders;
  assert_true(ws_coders_init(&coders));
  struct ws_frames f = {.coders = &coders, .max_message = 100};
  struct heard h = {{0}, {0}};
  feed(&f, STR("\x81\x05hel"), &h);
  assert_non_null(f.coder);
  feed(&f, STR("lo"), &h);
  assert_null(f.coder);
  assert_int_equal(coders.n_idle, 1);
  feed(&f,
       STR("\x01\x01"
           "a"),
       &h); // between two fragments
  assert_null(f.coder);
  feed(&f, STR("\x80"), &h);
  assert_non_null(f.coder);
  assert_string_equal(h.events, "T5");
  ws_frames_free(&f);
  ws_coders_free(&coders);
}

// --- writing ---------------------------------------------------------------------------------------------------------------------------

// Unmasks what ws_frames_write made, so that a client's own reader takes it.
static void unmask(struct buf *b)
{
  size_t header = 2 + ((b->p[1] & 0x7F) == 126 ? 2 : (b->p[1] & 0x7F) == 127 ? 8 : 0);
  assert_true(b->p[1] & 0x80);
  char key[4];
  memcpy(key, b->p + header, 4);
  b->p[1] = (char)(b->p[1] & 0x7F);
  memmove(b->p + header, b->p + header + 4, b->n - header - 4);
  b->n -= 4;
  for (size_t i = 0; i + header < b->n; i++)
    b->p[header + i] = (char)(b->p[header + i] ^ key[i % 4]);
}

static void written_frames_read_back(void **state)
{
  (void)state;
  struct ws_coders coders;
  assert_true(ws_coders_init(&coders));
  static char big[70001];
  memset(big, 'z', sizeof big);
  const size_t sizes[] = {0, 1, 124, 125, 126, 65535, 65536, 70001};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct buf out = {0};
    struct str pieces[] = {STR(""), {big, sizes[i] / 3}, STR(""), {big, sizes[i] - sizes[i] / 3}, STR("")};
    assert_true(ws_frames_write(&coders, WS_TEXT, pieces, 5, &out));
    unmask(&out);
    char want[32];
    snprintf(want, sizeof want, "T%zu", sizes[i]);
    reads(buf_view(&out), sizeof big, want);
    buf_free(&out);
  }
  ws_coders_free(&coders);
}

// A server takes masked frames only, and both kinds of messages where it is told to; what it writes is not masked, and a client reads it.
static void the_servers_side(void **state)
{
  (void)state;
  static char big[70001];
  for (size_t i = 0; i < sizeof big; i++)
    big[i] = (char)(i * 31 >> 3);
  struct ws_coders client, server;
  assert_true(ws_coders_init(&client) && ws_coders_init(&server));
  server.server = true;
  const size_t sizes[] = {0, 1, 125, 126, 5000, 65535, 65536, 70001};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    const enum ws_opcode opcode = i % 2 ? WS_BINARY : WS_TEXT;
    const struct str whole = {big, sizes[i]};
    for (size_t step = 1; step <= sizeof big + 20; step *= 77) {
      struct buf out = {0};
      assert_true(ws_frames_write(&client, opcode, &whole, 1, &out));
      struct ws_frames f = {.coders = &server, .max_message = sizeof big, .takes_binary = true};
      struct ws_event ev;
      enum ws_event_type type = WS_EVENT_NONE;
      for (size_t at = 0; at < out.n; at += step) {
        char *to;
        assert_int_equal(ws_frames_room(&f, &to), 0);
        struct str piece = {out.p + at, out.n - at < step ? out.n - at : step};
        assert_int_equal(type, WS_EVENT_NONE);
        type = ws_frames_read(&f, &piece, &ev);
      }
      assert_int_equal(type, WS_EVENT_MESSAGE);
      assert_int_equal(ev.binary, i % 2);
      assert_int_equal(ev.message->buf.n, whole.n);
      assert_memory_equal(ev.message->buf.p, whole.p, whole.n);
      shared_unref(ev.message);
      ws_frames_free(&f);
      buf_free(&out);
    }
    struct buf framed = {0}, split = {0};
    char want[32];
    snprintf(want, sizeof want, "T%zu", sizes[i]);
    assert_true(ws_frames_write(&server, WS_TEXT, &whole, 1, &framed));
    reads(buf_view(&framed), sizeof big, want);
    assert_true(ws_frames_write_header(&server, WS_TEXT, whole.n, &split) && buf_str(&split, whole));
    assert_int_equal(split.n, framed.n);
    assert_memory_equal(split.p, framed.p, framed.n);
    buf_free(&framed);
    buf_free(&split);
  }
  struct ws_frames f = {.coders = &server, .max_message = 100};
  struct ws_event ev;
  struct str plain = STR("\x81\x05hello");
  assert_int_equal(ws_frames_read(&f, &plain, &ev), WS_EVENT_ERROR);
  assert_int_equal(ev.code, WS_CODE_PROTOCOL_ERROR);
  ws_frames_free(&f);
  ws_coders_free(&client);
  ws_coders_free(&server);
}

// RFC 6455 section 1.3 has the example.
static void what_a_server_answers(void **state)
{
  (void)state;
  struct ws_accept accept;
  assert_true(ws_handshake_accept(STR("dGhlIHNhbXBsZSBub25jZQ=="), &accept));
  assert_string_equal(accept.text, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  assert_false(ws_handshake_accept(STR("dGhlIHNhbXBsZSBub25jZQ="), &accept));
  assert_false(ws_handshake_accept(STR("dGhlIHNhbXBsZSBub25jZQaa"), &accept));
  assert_false(ws_handshake_accept(STR("dGhlIHNhbXBs\r\nBub25jZQ=="), &accept));
  assert_false(ws_handshake_accept(STR(""), &accept));
  assert_true(ws_handshake_lists(STR("keep-alive, Upgrade"), STR("upgrade")));
  assert_false(ws_handshake_lists(STR("keep-alive, Upgraded"), STR("upgrade")));
}

static void masks_differ(void **state)
{
  (void)state;
  struct ws_coders coders;
  assert_true(ws_coders_init(&coders));
  struct buf out = {0};
  int same = 0;
  for (int i = 0; i < 1000; i++) {
    char before[4] = {0};
    if (i)
      memcpy(before, out.p + 2, 4);
    out.n = 0;
    assert_true(ws_frames_write(&coders, WS_PING, NULL, 0, &out));
    assert_int_equal(out.n, 6);
    same += i && !memcmp(before, out.p + 2, 4);
  }
  assert_in_range(same, 0, 1);
  buf_free(&out);
  ws_coders_free(&coders);
}

static void write_limits(void **state)
{
  (void)state;
  struct ws_coders coders;
  assert_true(ws_coders_init(&coders));
  struct buf out = {.max = 64};
  static const char text[126];
  assert_false(ws_frames_write(&coders, WS_TEXT, &(struct str){text, 100}, 1, &out));
  assert_false(ws_frames_write(&coders, WS_PING, &(struct str){text, 126}, 1, &out));
  assert_int_equal(out.n, 0);
  assert_true(ws_frames_write_close(&coders, 1000, &out)); // and the writer still works
  unmask(&out);
  reads(buf_view(&out), 10, "C1000");
  buf_free(&out);
  ws_coders_free(&coders);
}

// --- the handshake ---------------------------------------------------------------------------------------------------------------------

static const struct ws_accept rfc_accept = {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="};

static enum ws_handshake answers(const char *reply, int *status, size_t *head)
{
  const char *problem = NULL;
  enum ws_handshake result = WS_HANDSHAKE_MORE;
  size_t n = strlen(reply);
  // Byte by byte: it must be decided at the blank line and not before.
  for (size_t i = 0; i <= n && result == WS_HANDSHAKE_MORE; i++) {
    char *copy = malloc(i ? i : 1);
    assert_non_null(copy);
    memcpy(copy, reply, i);
    result = ws_handshake_reply((struct str){copy, i}, &rfc_accept, head, status, &problem);
    free(copy);
  }
  if (result == WS_HANDSHAKE_BAD)
    assert_non_null(problem);
  return result;
}

#define HEAD "HTTP/1.1 101 Switching Protocols\r\n"
#define ACCEPT "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

static void handshake_replies(void **state)
{
  (void)state;
  const struct {
    const char *text;
    enum ws_handshake want;
  } rows[] = {
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_OK},
      {"HTTP/1.1 101\r\nupgrade:WebSocket\r\nCONNECTION: keep-alive , upgrade\r\n" ACCEPT "X:\r\n\r\n", WS_HANDSHAKE_OK},
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade: websocket\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Connection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\n" ACCEPT ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade : websocket\r\nConnection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "Upgrade: websocket\nConnection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {HEAD "nonsense\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {"HTTP/1.0 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" ACCEPT "\r\n", WS_HANDSHAKE_BAD},
      {"SSH-2.0-x\r\n\r\n", WS_HANDSHAKE_BAD},
      {"\r\n\r\n", WS_HANDSHAKE_BAD},
      {"HTTP/1.1 1o1 x\r\n\r\n", WS_HANDSHAKE_BAD},
      {"HTTP/1.1 1011\r\n\r\n", WS_HANDSHAKE_BAD},
      {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", WS_HANDSHAKE_STATUS},
      {HEAD "Upgrade: websocket\r\nConnection: Upgrade\r\n" ACCEPT, WS_HANDSHAKE_MORE},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int status = 0;
    size_t head = 0;
    enum ws_handshake got = answers(rows[i].text, &status, &head);
    if (got != rows[i].want)
      fail_msg("%d in place of %d for: %s", got, rows[i].want, rows[i].text);
    if (got == WS_HANDSHAKE_OK)
      assert_int_equal(head, strlen(rows[i].text));
    if (got == WS_HANDSHAKE_STATUS)
      assert_int_equal(status, 403);
  }
}

static void a_head_without_end(void **state)
{
  (void)state;
  static char text[WS_HEAD_MAX + 100];
  memset(text, 'x', sizeof text);
  size_t head;
  int status;
  const char *problem;
  assert_int_equal(ws_handshake_reply((struct str){text, WS_HEAD_MAX - 1}, &rfc_accept, &head, &status, &problem), WS_HANDSHAKE_MORE);
  memcpy(text + WS_HEAD_MAX + 1, "\r\n\r\n", 4);
  assert_int_equal(ws_handshake_reply((struct str){text, sizeof text}, &rfc_accept, &head, &status, &problem), WS_HANDSHAKE_BAD);
}

static void handshake_request(void **state)
{
  (void)state;
  struct pair pair = {(char[]){"X-Token"}, (char[]){"s3cret"}, VALUE_PLAIN};
  struct pairs headers = {&pair, 1};
  struct ws_accept accept, other;
  struct buf out = {0}, again = {0};
  assert_true(ws_handshake_request(&out, "h:1", "/base", "/ws", &headers, NULL, &accept));
  assert_true(ws_handshake_request(&again, "h:1", "/base", "/ws", NULL, NULL, &other));
  assert_true(buf_char(&out, '\0'));
  assert_true(str_starts(str_c(out.p), STR("GET /base/ws HTTP/1.1\r\nHost: h:1\r\n")));
  assert_non_null(strstr(out.p, "\r\nX-Token: s3cret\r\n"));
  assert_non_null(strstr(out.p, "\r\nSec-WebSocket-Version: 13\r\n"));
  assert_true(str_ends(str_c(out.p), STR("\r\n\r\n")));
  assert_string_not_equal(accept.text, other.text);
  assert_int_equal(strlen(accept.text), 28);
  buf_free(&out);
  buf_free(&again);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(messages),
      cmocka_unit_test(longer_lengths),
      cmocka_unit_test(received_in_place),
      cmocka_unit_test(limits),
      cmocka_unit_test(what_breaks_the_protocol),
      cmocka_unit_test(closes),
      cmocka_unit_test(what_is_cut_off_gives_nothing),
      cmocka_unit_test(coders_are_given_back),
      cmocka_unit_test(written_frames_read_back),
      cmocka_unit_test(the_servers_side),
      cmocka_unit_test(what_a_server_answers),
      cmocka_unit_test(masks_differ),
      cmocka_unit_test(write_limits),
      cmocka_unit_test(handshake_replies),
      cmocka_unit_test(a_head_without_end),
      cmocka_unit_test(handshake_request),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
