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
#include "providers/log_tail.h"

enum { DOCKER_REF_MAX = 192, DOCKER_VERSION_MAX = 16, DOCKER_MESSAGE_MAX = 512, DOCKER_ADDRESS_MAX = 64 };

// The path of an Engine's socket: docker_host without "unix://". NULL when it is anything else.
const char *docker_socket_path(const char *docker_host);

// From the answer to /version the prefix of all other paths: "/v1.41", which is what this was written for, or what the Engine has that is nearest to it.
// False when there is none.
bool docker_api_version(struct str body, char prefix[DOCKER_VERSION_MAX]);

// The body of POST /containers/create; to be freed. NULL: out of memory.
char *docker_create_body(const struct env_config *env, const struct pairs *env_vars, const char *worker_id, const char *instance);

// The path that pulls an image: its tag, or "latest" where it names none (an Engine that is told no tag pulls them all). False when out of memory.
bool docker_pull_path(const char *prefix, const char *image, struct buf *path);

// The id in the answer to a creation. False when there is none.
bool docker_created_id(struct str body, char ref[DOCKER_REF_MAX]);

// What an answer that is an error says, on one line; where it says nothing, its status.
void docker_message(int status, struct str body, char message[DOCKER_MESSAGE_MAX]);

// The exit code in the answer to /wait. False when it has none.
bool docker_wait_code(struct str body, int64_t *code);

// A container as /containers/ID/json shows it.
struct docker_container {
  bool running, out_of_memory;
  int64_t exit_code;
  char error[DOCKER_MESSAGE_MAX];   // the Engine's own, as when the command is not there; "": none
  char address[DOCKER_ADDRESS_MAX]; // where to dial it, as env's network and publish ask; an IPv6 address has its brackets. "": nowhere
  uint16_t port;
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
// Adds a piece's output to `log`. False when this is no such stream.
bool docker_stream_feed(struct docker_stream *s, struct str piece, struct log_tail *log);

// The answer to a pull: JSON objects, one a line. What went wrong is in one of them, whatever the status.
struct docker_pull {
  struct buf line;
  char error[DOCKER_MESSAGE_MAX]; // "": none yet
};
void docker_pull_init(struct docker_pull *p);
// False when a line is too long or memory ran out.
bool docker_pull_feed(struct docker_pull *p, struct str piece);
// Reads what is left behind the last line's end, and frees.
void docker_pull_end(struct docker_pull *p);

#endif
