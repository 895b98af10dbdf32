// SPDX-License-Identifier: Apache-2.0
// What is said to a Docker Engine and what it answers: text in, text out, no I/O. https://docs.docker.com/engine/api/v1.41/
//
// The Engine is the operator's and its JSON is read by cJSON; only a container's output comes from the worker.
#ifndef ENVGATE_PROVIDERS_DOCKER_ENGINE_H
#define ENVGATE_PROVIDERS_DOCKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "config/config.h"

enum { DOCKER_REF_MAX = 192, DOCKER_VERSION_MAX = 16, DOCKER_MESSAGE_MAX = 512, DOCKER_ADDRESS_MAX = 64, DOCKER_TIME_MAX = 40 };

// The path of an Engine's socket: docker_host without "unix://". NULL when it is anything else.
const char *docker_socket_path(const char *docker_host);

// From the answer to /version the prefix of all other paths: "/v1.41", which is what this was written for, or what the Engine has that is nearest to it.
// False when there is none.
bool docker_api_version(struct str body, char prefix[DOCKER_VERSION_MAX]);

// What a container is made of.
struct docker_spec {
  const struct env_config *env;
  const struct pairs *env_vars;
  const char *worker_id, *instance; // instance NULL: without the gateway's own labels
  const char *config;               // docker_config_hash's
  const uint16_t *ports;            // that the worker may listen on
  int n_ports;                      // 0: as the image says (not with publish)
};

// The body of POST /containers/create; to be freed. NULL: out of memory.
char *docker_create_body(const struct docker_spec *s);

// What tells whether a container is what the configuration asks for now: a hash of everything that shapes it. The environment's variables are in it, which may be
// secrets, so it is keyed. False when out of memory.
enum { DOCKER_HASH_MAX = 33 };
bool docker_config_hash(const struct env_config *env, const struct pairs *env_vars, const char *key, char hash[DOCKER_HASH_MAX]);

// The path that asks for an image. False when out of memory.
bool docker_image_path(const char *prefix, const char *image, struct buf *path);

// The ports that a worker may listen on: `port` where it is set, else the one that the image exposes, else two to be tried. How many.
enum { DOCKER_PORTS_MAX = 2 };
int docker_ports(int64_t port, struct str image, uint16_t ports[DOCKER_PORTS_MAX]);

// The path that lists an instance's containers, and the one that streams what happens to them, from a time on. False when out of memory.
bool docker_list_path(const char *prefix, const char *instance, struct buf *path);
bool docker_events_path(const char *prefix, const char *instance, const char *since, struct buf *path);

// The path that pulls an image: its tag, or "latest" where it names none (an Engine that is told no tag pulls them all). False when out of memory.
bool docker_pull_path(const char *prefix, const char *image, struct buf *path);

// The id in the answer to a creation. False when there is none.
bool docker_created_id(struct str body, char ref[DOCKER_REF_MAX]);

// Copies as clean UTF-8 on one line, cut at a character's start: the Engine quotes what an image or a registry says.
void docker_copy_line(char to[DOCKER_MESSAGE_MAX], const char *from);

// What an answer that is an error says, on one line; where it says nothing, its status.
void docker_message(int status, struct str body, char message[DOCKER_MESSAGE_MAX]);

// One container of a list, as far as it matters. The pointers lie in the list.
struct docker_listed {
  const char *id, *name;                     // name: without its slash
  const char *image;                         // as it was asked for; the image's id, where that name means another image now
  const char *environment, *worker, *config; // its labels; NULL: it has none
  bool running;
};
// Tells of each container in the answer to a list. False when it is none.
bool docker_list_parse(struct str body, void (*each)(void *ctx, const struct docker_listed *c), void *ctx);

// One line of the stream of events.
struct docker_event {
  enum docker_event_kind { DOCKER_OTHER, DOCKER_DIE, DOCKER_OOM, DOCKER_DESTROY } kind;
  char id[DOCKER_REF_MAX];
  int64_t exit_code;
  char time[DOCKER_TIME_MAX]; // for `since`; "": it has none
};
bool docker_event_parse(struct str line, struct docker_event *e);

// A time of the wall clock for `since`.
void docker_time(int64_t nanoseconds, char time[DOCKER_TIME_MAX]);

// A container as /containers/ID/json shows it.
struct docker_container {
  bool running, out_of_memory;
  int64_t exit_code;
  int64_t pid;                      // of its first process, where the Engine is; 0: none
  char error[DOCKER_MESSAGE_MAX];   // the Engine's own, as when the command is not there; "": none
  char address[DOCKER_ADDRESS_MAX]; // where to dial it, as env's network and publish ask; an IPv6 address has its brackets. "": nowhere
  uint16_t ports[DOCKER_PORTS_MAX]; // to dial: where it may listen
  int n_ports;
};
bool docker_container_parse(struct str body, const struct env_config *env, struct docker_container *c);

// Says how a container ended: FAILED_PRECONDITION, WORKER_START_FAILED.
void docker_explain_exit(const struct docker_container *c, const struct env_config *env, struct err *e);

// The stream that carries standard output and standard error: frames of one byte that says which, three zeros, the length in 4 bytes (big-endian), and the
// output. https://docs.docker.com/engine/api/v1.41/#tag/Container/operation/ContainerAttach
struct docker_stream {
  unsigned char head[8];
  size_t n_head; // bytes of the head so far; 8: in the frame
  uint32_t left; // of the frame
};
// Takes from a piece (n > 0) up to the end of a frame at most; `output` is what of that is output, and may be empty. False when this is no such stream.
bool docker_stream_next(struct docker_stream *s, struct str *piece, struct str *output);

// A stream of JSON objects, one a line.
struct docker_lines {
  struct buf line;
};
enum { DOCKER_LINE_MAX = 64 << 10 };
// Takes from a piece up to a line's end. True with the line, which is valid until the next call; false when the piece ended before (piece->n is 0), or, with
// piece->n left as it is, when a line is over DOCKER_LINE_MAX or memory ran out.
bool docker_lines_next(struct docker_lines *l, struct str *piece, struct str *line);
void docker_lines_free(struct docker_lines *l);

#endif
