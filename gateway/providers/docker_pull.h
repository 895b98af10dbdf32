// SPDX-License-Identifier: Apache-2.0
// The answer to a pull: JSON objects, one a line, that tell of each layer again and again. Text in, counts out, no I/O. What went wrong is in one of the lines,
// whatever the status.
//
// A registry's words come through in them, so they are bounded: layers, lengths and numbers.
#ifndef ENVGATE_PROVIDERS_DOCKER_PULL_H
#define ENVGATE_PROVIDERS_DOCKER_PULL_H

#include "providers/docker_engine.h"

enum { DOCKER_LAYERS_MAX = 512 };

struct docker_pull {
  struct docker_lines lines;
  char error[DOCKER_MESSAGE_MAX]; // "": none yet
  struct docker_layer {
    char id[16]; // twelve digits; cut, where they are more
    bool done;
    uint64_t bytes, bytes_done; // of its download; 0: not known yet
  } * layers;
  // What is told of it. The counts never go back.
  uint32_t n_layers, layers_done;
  uint64_t bytes, bytes_done;
};

// Zeroed, it is ready. False when a line is too long or memory ran out.
bool docker_pull_feed(struct docker_pull *p, struct str piece);
// Reads what is left behind the last line's end, and frees all but `error` and the counts.
void docker_pull_end(struct docker_pull *p);

#endif
