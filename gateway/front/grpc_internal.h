// SPDX-License-Identifier: Apache-2.0
// What grpc.c (the front), grpc_conn.c (a connection) and grpc_stream.c (a call) share. Nobody else includes it.
#ifndef ENVGATE_FRONT_GRPC_INTERNAL_H
#define ENVGATE_FRONT_GRPC_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <sys/uio.h>

#include "base/blocks.h"
#include "base/buf.h"
#include "base/list.h"
#include "front/grpc_wire.h"
#include "front/http_site.h"
#include "front/tls.h"
#include "rpc/rpc.h"
#include "runtime/reactor.h"

enum {
  GRPC_SCRATCH = 64 << 10,  // a read, and a write, are at most this large
  GRPC_IOVECS = 64,         // pieces of a write
  GRPC_SPENT = 32,          // replies of one write whose bytes are not copied
  GRPC_SPARE_STREAMS = 256, // stream objects kept for reuse by a reactor
};

struct grpc_front {
  struct reactor *r;
  const struct http_site *site;
  struct list conns;
  int count;
  bool draining;
  nghttp2_session_callbacks *callbacks;
  nghttp2_option *option;
  nghttp2_mem memory; // blocks, as nghttp2 wants them
  struct blocks blocks;
  struct list spare; // streams
  int spares;
  char in[GRPC_SCRATCH], out[GRPC_SCRATCH]; // used within one callback only
  size_t out_n, out_total;                  // of `out`; of all that was gathered in this turn of a connection
  // What is gathered for one write: parts of `out`, and of replies that lie elsewhere and must stay until it is done.
  struct iovec iov[GRPC_IOVECS];
  int iov_n;
  size_t iov_bytes;
  struct splices spent[GRPC_SPENT]; // of streams that have given all
  int spent_n;
};

struct grpc_conn {
  struct grpc_front *front;
  struct list link; // front->conns
  int fd;
  struct ssl_st *ssl; // NULL: plaintext
  struct io *io;
  nghttp2_session *h2; // NULL: over; it only lingers for the peer to read the rest
  struct turn_end flush;
  struct timer timer;
  struct list streams;
  nsec head_since;                                    // when a header began that is not complete; 0: none
  struct grpc_stream *head_of;                        // whose headers came last; NULL: none, or it is gone
  struct flow *flow;                                  // what may be read for it from workers
  struct buf out;                                     // bytes that the socket did not take; while there are any, no more are made
  size_t out_at;                                      // how many of them have been sent
  nsec active;                                        // the last time that a call began, ended or got data
  nsec progress;                                      // the last time that the socket took bytes
  nsec second;                                        // the start of the second that the two counts are of
  uint32_t noise;                                     // frames received that ask for nothing
  uint32_t work;                                      // frames sent for calls
  enum { CONN_OPEN, CONN_NOTICED, CONN_GOING } state; // GOAWAY not sent; sent as a notice; sent for good
  bool took_large;                                    // in this turn it took bytes of large replies
  bool unheld;                                        // a stream's replies have gone, and what it held can be looked at
  bool unread;                                        // TLS holds bytes that the socket does not tell of
  struct peer peer;
};

// A call on its HTTP/2 stream. It lives until the stream closes; the call may end sooner or later.
struct grpc_stream {
  struct list link; // conn->streams, or front->spare
  struct grpc_conn *conn;
  int32_t id;
  struct call *call; // NULL once it has ended

  // the request
  struct str verb, path;  // in the call's arena
  struct header *headers; // in the call's arena
  size_t header_count, header_room, header_bytes;
  bool headers_lost; // out of memory
  bool request_done; // the peer has sent its last
  nsec heard;        // when something of it came last
  struct grpc_frames frames;
  struct buf held; // bytes not looked at, as the peer lets its replies pile up; their window is not given back

  // the reply
  enum codec codec;
  uint8_t prefix[GRPC_PREFIX]; // goes before `out`
  size_t prefix_at;
  struct buf out;              // messages not yet in frames
  struct splices splices;      // a unary reply's pieces, between the bytes of `out`
  struct splice_place at;      // what of both is in frames
  size_t left;                 // what is not
  bool large;                  // what is queued is
  bool headed;                 // the reply's headers are submitted
  bool ended;                  // after `out` comes the end
  bool given_up;               // reset, for not reading its replies
  bool gzip;                   // messages may be compressed, and so are replies
  char status[4];              // grpc-status
  struct buf message, details; // grpc-message, grpc-status-details-bin
  struct buf trailers;         // the handler's own
  size_t trailer_count;

  struct grpc_http *web; // not gRPC but another protocol's request; its call is there, not here
};

// --- grpc_conn.c

// False: out of memory; `fd`, `ssl` and the peer are still the caller's.
bool grpc_conn_open(struct grpc_front *f, int fd, struct ssl_st *ssl, struct peer *peer);
// GOAWAY; the connection closes when its calls have ended.
void grpc_conn_drain(struct grpc_conn *c);
// Closes it at once; its calls are cancelled.
void grpc_conn_close(struct grpc_conn *c);
// Has what is queued sent at the end of the turn.
void grpc_conn_touch(struct grpc_conn *c);
bool grpc_conn_setup(struct grpc_front *f);
// Frees splices, or puts that off until what has been gathered is written. They become empty.
void grpc_conn_release(struct grpc_front *f, struct splices *splices);

// --- grpc_stream.c: what a connection tells a stream. None of them frees it.

// NULL: out of memory.
struct grpc_stream *grpc_stream_open(struct grpc_conn *c, int32_t id);
void grpc_stream_header(struct grpc_stream *s, struct str name, struct str value);
// The headers are complete.
void grpc_stream_head(struct grpc_stream *s);
void grpc_stream_data(struct grpc_stream *s, struct str bytes);
// The peer has sent its last.
void grpc_stream_end(struct grpc_stream *s);
// The next of the reply's bytes that nghttp2 was told of, in one place, at most `n` of them. *lasting: they stay there until the stream's splices go.
struct str grpc_stream_next(struct grpc_stream *s, size_t n, bool *lasting);
// A frame's bytes were taken by it.
void grpc_stream_taken(struct grpc_stream *s);

// Gives the request up when its body should have gone on by now (not a client stream's): nothing of it has come since `since`.
void grpc_stream_hurry(struct grpc_stream *s, nsec since);

// Goes on with the bytes that are held, if its replies have gone.
void grpc_stream_resume(struct grpc_stream *s);

// The HTTP/2 stream is gone: cancels the call if it still runs, and frees the stream.
void grpc_stream_close(struct grpc_stream *s);

// For grpc_http.c. Submits an answer whose body is what is queued until s->ended is set; tells that there is more or that it has ended; queues bytes behind a
// prefix (NULL: none), with pieces between them (NULL: none) when nothing is queued, which takes both over (false: too many wait, or out of memory); resets the stream when `rv`, of nghttp2's, says failure.
void grpc_stream_respond(struct grpc_stream *s, const nghttp2_nv *nv, size_t n);
void grpc_stream_go_on(struct grpc_stream *s);
bool grpc_stream_queue(struct grpc_stream *s, const uint8_t *prefix, struct buf *out, struct splices *splices);
void grpc_stream_must(struct grpc_stream *s, int rv);

// --- grpc_http.c: requests that are not gRPC -------------------------------------------------------------------------------------------------

// The headers are complete. Takes over the stream's call.
void grpc_http_head(struct grpc_stream *s);
// Answers with an error in place of that.
void grpc_http_refuse(struct grpc_stream *s, const struct err *e, int status);
void grpc_http_data(struct grpc_stream *s, struct str bytes);
void grpc_http_end(struct grpc_stream *s);
void grpc_http_resume(struct grpc_stream *s);
void grpc_http_close(struct grpc_stream *s);
// It has bytes that wait for its replies to go.
bool grpc_http_held(const struct grpc_stream *s);
void grpc_http_hurry(struct grpc_stream *s);
bool grpc_http_busy(const struct grpc_stream *s);

// True for a call that waits for us, or is a stream: silence from its peer is no reason to end it.
bool grpc_stream_busy(const struct grpc_stream *s);

#endif
