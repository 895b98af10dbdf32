// SPDX-License-Identifier: Apache-2.0
#include "upstream/ws_frames.h"

#include <stdlib.h>
#include <wslay/wslay.h>

#include "base/id.h"

enum {
  MAX_CONTROL = 125,
  MAX_FRAME_HEADER = 14,
  MAX_IDLE_CODERS = 16,
  // What a frame's header announces is only believed so far; whoever has sent as much gets room for the rest.
  TRUSTED_LENGTH = 64 << 10,
  DIRECT_MIN = 4 << 10, // less of a frame is not worth a read of its own
};

struct ws_coder {
  struct ws_coder *next; // among the idle
  wslay_frame_context_ptr wslay;
  struct ws_coders *coders;
  struct str *in;            // what may be read
  size_t buffered;           // bytes that wslay has read and not yet handed out
  size_t passed;             // bytes of payload that wslay may count as read: they lie in the message already
  bool in_frame;             // the frame's header has been handled
  bool in_data;              // … and its payload is a message's
  uint64_t left;             // what is still to come of the frame's payload
  char control[MAX_CONTROL]; // the payload of a control frame so far
  size_t n_control;
  struct buf *out; // where to write
  bool header;     // only the header is wanted there
};

// --- wslay's callbacks -----------------------------------------------------------------------------------------------------------------

static ssize_t take_input(uint8_t *to, size_t n, int flags, void *ctx)
{
  (void)flags;
  struct ws_coder *c = ctx;
  if (c->passed) {
    n = n < c->passed ? n : c->passed;
    c->passed -= n;
    c->buffered += n;
    return (ssize_t)n;
  }
  if (n > c->in->n)
    n = c->in->n;
  if (!n)
    return -1;
  memcpy(to, c->in->p, n);
  *c->in = str_skip(*c->in, n);
  c->buffered += n;
  return (ssize_t)n;
}

static ssize_t put_output(const uint8_t *p, size_t n, int flags, void *ctx)
{
  (void)flags;
  struct ws_coder *c = ctx;
  return c->header || buf_add(c->out, p, n) ? (ssize_t)n : -1;
}

// Keys come from the kernel's generator, some hundred at a time.
static int make_mask(uint8_t *key, size_t n, void *ctx)
{
  struct ws_coders *c = ((struct ws_coder *)ctx)->coders;
  random_take(&c->random, key, n);
  return 0;
}

// --- coders ----------------------------------------------------------------------------------------------------------------------------

static void coder_free(struct ws_coder *c)
{
  if (!c)
    return;
  if (c->wslay)
    wslay_frame_context_free(c->wslay);
  free(c);
}

static struct ws_coder *coder_new(struct ws_coders *coders)
{
  static const struct wslay_frame_callbacks callbacks = {put_output, take_input, make_mask};
  struct ws_coder *c = calloc(1, sizeof *c);
  if (c && !wslay_frame_context_init(&c->wslay, &callbacks, c)) {
    c->coders = coders;
    return c;
  }
  free(c);
  return NULL;
}

bool ws_coders_init(struct ws_coders *c)
{
  *c = (struct ws_coders){0};
  c->writer = coder_new(c);
  return c->writer != NULL;
}

void ws_coders_free(struct ws_coders *c)
{
  while (c->idle) {
    struct ws_coder *next = c->idle->next;
    coder_free(c->idle);
    c->idle = next;
  }
  coder_free(c->writer);
  shared_pool_free(&c->messages);
  *c = (struct ws_coders){0};
}

static struct ws_coder *borrow(struct ws_coders *c)
{
  struct ws_coder *coder = c->idle;
  if (!coder)
    return coder_new(c);
  c->idle = coder->next;
  c->n_idle--;
  return coder;
}

static void give_back(struct ws_frames *f)
{
  struct ws_coders *c = f->coders;
  if (c->n_idle >= MAX_IDLE_CODERS) {
    coder_free(f->coder);
  } else {
    f->coder->next = c->idle;
    c->idle = f->coder;
    c->n_idle++;
  }
  f->coder = NULL;
}

// --- reading ---------------------------------------------------------------------------------------------------------------------------

static enum ws_event_type fault(struct ws_frames *f, struct ws_event *ev, int code, const char *problem)
{
  f->over = true;
  ev->code = code;
  ev->problem = problem;
  return WS_EVENT_ERROR;
}

// wslay refuses lengths that are not in their shortest form, so the length tells the size of the header.
static size_t header_size(const struct wslay_frame_iocb *io)
{
  size_t length = io->payload_length < 126 ? 2 : io->payload_length <= UINT16_MAX ? 4 : 10, key = 4;
  return length + (io->mask ? key : 0);
}

// What is wrong with a frame's header beyond what wslay checks; NULL: nothing.
static const char *header_fault(const struct ws_frames *f, const struct wslay_frame_iocb *io, int *code)
{
  *code = WS_CODE_PROTOCOL_ERROR;
  if (io->rsv)
    return "a frame has a reserved bit set";
  if ((io->mask != 0) != f->coders->server)
    return io->mask ? "a frame is masked" : "a frame is not masked";
  switch (io->opcode) {
  case WS_CLOSE:
  case WS_PING:
  case WS_PONG:
    return NULL;
  case WS_BINARY:
    if (!f->takes_binary) {
      *code = WS_CODE_UNSUPPORTED;
      return "a binary message";
    }
    __attribute__((fallthrough));
  case WS_TEXT:
    if (f->in_message)
      return "a message begins inside another";
    break;
  case WS_CONTINUATION:
    if (!f->in_message)
      return "a continuation of no message";
    break;
  default:
    return "a frame has an unknown opcode";
  }
  *code = WS_CODE_TOO_BIG;
  return io->payload_length > f->max_message - f->message.n ? "a message over the limit" : NULL;
}

static bool begin_data(struct ws_frames *f, const struct wslay_frame_iocb *io)
{
  uint64_t announced = io->payload_length;
  if (!f->in_message)
    f->binary = io->opcode == WS_BINARY;
  f->in_message = true;
  size_t room = (announced < TRUSTED_LENGTH ? (size_t)announced : TRUSTED_LENGTH) + 1;
  buf_lend(&f->coders->messages.memory, &f->message, room);
  f->message.max = f->max_message + 1; // and the NUL
  return buf_reserve(&f->message, room) != NULL;
}

static enum ws_event_type end_message(struct ws_frames *f, struct ws_event *ev)
{
  if (!buf_char(&f->message, '\0'))
    return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
  f->message.n--;
  f->in_message = false;
  ev->binary = f->binary;
  ev->message = shared_take(&f->coders->messages, &f->message);
  return ev->message ? WS_EVENT_MESSAGE : fault(f, ev, WS_CODE_INTERNAL, "out of memory");
}

// RFC 6455 section 7.4: what may stand in a close frame.
static bool close_code_valid(int code)
{
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static enum ws_event_type end_close(struct ws_frames *f, struct ws_event *ev)
{
  if (ev->payload.n == 0) {
    ev->code = WS_CODE_NONE;
  } else if (ev->payload.n == 1) {
    return fault(f, ev, WS_CODE_PROTOCOL_ERROR, "a close frame with half a code");
  } else {
    ev->code = (unsigned char)ev->payload.p[0] << 8 | (unsigned char)ev->payload.p[1];
    if (!close_code_valid(ev->code))
      return fault(f, ev, WS_CODE_PROTOCOL_ERROR, "a close frame with an invalid code");
    ev->payload = str_skip(ev->payload, 2);
  }
  f->over = true;
  return WS_EVENT_CLOSE;
}

static enum ws_event_type end_control(struct ws_frames *f, int opcode, struct ws_event *ev)
{
  ev->payload = (struct str){f->coder->control, f->coder->n_control};
  f->coder->n_control = 0;
  switch (opcode) {
  case WS_PING:
    return WS_EVENT_PING;
  case WS_PONG:
    return WS_EVENT_PONG;
  default:
    return end_close(f, ev);
  }
}

// A piece of a frame's payload, perhaps its last. `stored`: it lies in the message already.
static enum ws_event_type on_piece(struct ws_frames *f, const struct wslay_frame_iocb *io, bool stored, struct ws_event *ev)
{
  struct ws_coder *c = f->coder;
  bool control = wslay_is_ctrl_frame(io->opcode);
  c->buffered -= io->data_length;
  if (!c->in_frame) {
    int code;
    const char *problem = header_fault(f, io, &code);
    if (problem)
      return fault(f, ev, code, problem);
    if (!control && !begin_data(f, io))
      return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
    c->buffered -= header_size(io);
    c->in_frame = true;
    c->left = io->payload_length;
  }
  c->left -= io->data_length;
  c->in_frame = c->left > 0;
  c->in_data = c->in_frame && !control;
  if (control) {
    if (io->data_length)
      memcpy(c->control + c->n_control, io->data, io->data_length);
    c->n_control += io->data_length;
    return c->in_frame ? WS_EVENT_NONE : end_control(f, io->opcode, ev);
  }
  if (!stored && !buf_add(&f->message, io->data, io->data_length))
    return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
  return c->in_frame || !io->fin ? WS_EVENT_NONE : end_message(f, ev);
}

// wslay copies each payload through a buffer of 4 KiB, which is nothing to small messages and most of the cost of large ones. It does not look at
// unmasked payload, so once it has read a frame's header it is only told how much of the payload has come, and the bytes go where they belong.
static enum ws_event_type pass(struct ws_frames *f, size_t n, struct ws_event *ev)
{
  struct ws_coder *c = f->coder;
  enum ws_event_type type = WS_EVENT_NONE;
  c->passed = n;
  while (type == WS_EVENT_NONE && c->passed) {
    struct wslay_frame_iocb io = {0};
    if (wslay_frame_recv(c->wslay, &io) < 0)
      return fault(f, ev, WS_CODE_PROTOCOL_ERROR, "a malformed frame");
    type = on_piece(f, &io, true, ev);
  }
  if (!c->in_frame && !c->buffered)
    give_back(f);
  return type;
}

static enum ws_event_type take_payload(struct ws_frames *f, struct str *in, struct ws_event *ev)
{
  size_t n = in->n < f->coder->left ? in->n : (size_t)f->coder->left;
  if (!buf_add(&f->message, in->p, n))
    return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
  *in = str_skip(*in, n);
  return pass(f, n, ev);
}

size_t ws_frames_room(struct ws_frames *f, char **to)
{
  const struct ws_coder *c = f->coder;
  if (!c || !c->in_data || c->buffered || c->left < DIRECT_MIN || f->over || f->coders->server)
    return 0;
  uint64_t room = f->message.n < TRUSTED_LENGTH && c->left > TRUSTED_LENGTH ? TRUSTED_LENGTH : c->left;
  *to = buf_reserve(&f->message, (size_t)room + 1);
  return *to ? (size_t)room : 0; // without memory ws_frames_read says so
}

enum ws_event_type ws_frames_received(struct ws_frames *f, size_t n, struct ws_event *ev)
{
  *ev = (struct ws_event){0};
  f->message.n += n;
  return pass(f, n, ev);
}

size_t ws_frames_coming(const struct ws_frames *f)
{
  return f->in_message ? f->message.n + (f->coder && f->coder->in_data ? (size_t)f->coder->left : 0) : 0;
}

enum ws_event_type ws_frames_read(struct ws_frames *f, struct str *in, struct ws_event *ev)
{
  *ev = (struct ws_event){0};
  while (!f->over) {
    if (!f->coder) {
      if (!in->n)
        return WS_EVENT_NONE;
      f->coder = borrow(f->coders);
      if (!f->coder)
        return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
    }
    if (f->coder->in_data && !f->coder->buffered && in->n && !f->coders->server) {
      enum ws_event_type type = take_payload(f, in, ev);
      if (type != WS_EVENT_NONE)
        return type;
      continue;
    }
    f->coder->in = in;
    struct wslay_frame_iocb io = {0};
    ssize_t n = wslay_frame_recv(f->coder->wslay, &io);
    if (n == WSLAY_ERR_WANT_READ) {
      if (!f->coder->in_frame && !f->coder->buffered)
        give_back(f);
      return WS_EVENT_NONE;
    }
    if (n < 0)
      return fault(f, ev, WS_CODE_PROTOCOL_ERROR, "a malformed frame header");
    enum ws_event_type type = on_piece(f, &io, false, ev);
    if (type != WS_EVENT_NONE)
      return type;
  }
  *in = str_skip(*in, in->n);
  return WS_EVENT_NONE;
}

void ws_frames_free(struct ws_frames *f)
{
  buf_free(&f->message);
  coder_free(f->coder); // perhaps in the middle of a frame: of no use to others
  f->coder = NULL;
}

// --- writing ---------------------------------------------------------------------------------------------------------------------------

bool ws_frames_write(struct ws_coders *c, enum ws_opcode opcode, const struct str *pieces, int n, struct buf *out)
{
  size_t total = 0;
  for (int i = 0; i < n; i++)
    total += pieces[i].n;
  if ((wslay_is_ctrl_frame(opcode) && total > MAX_CONTROL) || !buf_reserve(out, total + MAX_FRAME_HEADER))
    return false;
  c->writer->out = out;
  struct wslay_frame_iocb io = {.fin = 1, .opcode = (uint8_t)opcode, .mask = !c->server, .payload_length = total};
  // The first call, without payload, writes the header. The room is there, so wslay takes each piece whole. After the last byte a further call
  // would begin a new frame: no empty pieces.
  bool ok = wslay_frame_send(c->writer->wslay, &io) >= 0;
  for (int i = 0; ok && i < n; i++) {
    io.data = (const uint8_t *)pieces[i].p;
    io.data_length = pieces[i].n;
    ok = !io.data_length || wslay_frame_send(c->writer->wslay, &io) >= 0;
  }
  return ok;
}

bool ws_frames_write_header(struct ws_coders *c, enum ws_opcode opcode, size_t n, struct buf *out)
{
  if (!buf_reserve(out, MAX_FRAME_HEADER))
    return false;
  c->writer->out = out;
  struct wslay_frame_iocb io = {.fin = 1, .opcode = (uint8_t)opcode, .payload_length = n};
  bool ok = wslay_frame_send(c->writer->wslay, &io) >= 0;
  // The payload is not masked, so wslay does not look at it: it is told that all of it has gone.
  c->writer->header = true;
  io.data = (const uint8_t *)out->p;
  io.data_length = n;
  ok = ok && (!n || wslay_frame_send(c->writer->wslay, &io) >= 0);
  c->writer->header = false;
  return ok;
}

bool ws_frames_write_close(struct ws_coders *c, int code, struct buf *out)
{
  char text[2] = {(char)(code >> 8), (char)code};
  return ws_frames_write(c, WS_CLOSE, &(struct str){text, sizeof text}, code == WS_CODE_NONE ? 0 : 1, out);
}
