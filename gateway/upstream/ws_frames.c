// SPDX-License-Identifier: Apache-2.0
#include "upstream/ws_frames.h"

#include <stdlib.h>
#include <wslay/wslay.h>

#include "base/id.h"

enum {
  MAX_CONTROL = 125,
  MAX_FRAME_HEADER = 14,
  MAX_IDLE_CODERS = 16,
  // What a frame's header announces is only believed so far; more room is made as bytes come.
  TRUSTED_LENGTH = 64 << 10,
};

struct ws_coder {
  struct ws_coder *next; // among the idle
  wslay_frame_context_ptr wslay;
  struct ws_coders *coders;
  struct str *in;            // what may be read
  size_t buffered;           // bytes that wslay has read and not yet handed out
  bool in_frame;             // the frame's header has been handled
  uint64_t left;             // what is still to come of the frame's payload
  char control[MAX_CONTROL]; // the payload of a control frame so far
  size_t n_control;
  struct buf *out; // where to write
};

// --- wslay's callbacks -----------------------------------------------------------------------------------------------------------------

static ssize_t take_input(uint8_t *to, size_t n, int flags, void *ctx)
{
  (void)flags;
  struct ws_coder *c = ctx;
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
  return buf_add(c->out, p, n) ? (ssize_t)n : -1;
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
static size_t header_size(uint64_t payload)
{
  return payload < 126 ? 2 : payload <= UINT16_MAX ? 4 : 10;
}

// What is wrong with a frame's header beyond what wslay checks; NULL: nothing.
static const char *header_fault(const struct ws_frames *f, const struct wslay_frame_iocb *io, int *code)
{
  *code = WS_CODE_PROTOCOL_ERROR;
  if (io->rsv)
    return "a frame has a reserved bit set";
  if (io->mask)
    return "a frame is masked";
  switch (io->opcode) {
  case WS_CLOSE:
  case WS_PING:
  case WS_PONG:
    return NULL;
  case WS_BINARY:
    *code = WS_CODE_UNSUPPORTED;
    return "a binary message";
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

static bool begin_data(struct ws_frames *f, uint64_t announced)
{
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

// A piece of a frame's payload, perhaps its last.
static enum ws_event_type on_piece(struct ws_frames *f, const struct wslay_frame_iocb *io, struct ws_event *ev)
{
  struct ws_coder *c = f->coder;
  bool control = wslay_is_ctrl_frame(io->opcode);
  c->buffered -= io->data_length;
  if (!c->in_frame) {
    int code;
    const char *problem = header_fault(f, io, &code);
    if (problem)
      return fault(f, ev, code, problem);
    if (!control && !begin_data(f, io->payload_length))
      return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
    c->buffered -= header_size(io->payload_length);
    c->in_frame = true;
    c->left = io->payload_length;
  }
  c->left -= io->data_length;
  c->in_frame = c->left > 0;
  if (control) {
    if (io->data_length)
      memcpy(c->control + c->n_control, io->data, io->data_length);
    c->n_control += io->data_length;
    return c->in_frame ? WS_EVENT_NONE : end_control(f, io->opcode, ev);
  }
  if (!buf_add(&f->message, io->data, io->data_length))
    return fault(f, ev, WS_CODE_INTERNAL, "out of memory");
  return c->in_frame || !io->fin ? WS_EVENT_NONE : end_message(f, ev);
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
    enum ws_event_type type = on_piece(f, &io, ev);
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
  struct wslay_frame_iocb io = {.fin = 1, .opcode = (uint8_t)opcode, .mask = 1, .payload_length = total};
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

bool ws_frames_write_close(struct ws_coders *c, int code, struct buf *out)
{
  char text[2] = {(char)(code >> 8), (char)code};
  return ws_frames_write(c, WS_CLOSE, &(struct str){text, sizeof text}, code == WS_CODE_NONE ? 0 : 1, out);
}
