// SPDX-License-Identifier: Apache-2.0
// At which of several addresses a worker answers, where nothing says which port it listens on.
#ifndef ENVGATE_PROVIDERS_DOCKER_PORTS_H
#define ENVGATE_PROVIDERS_DOCKER_PORTS_H

#include "providers/docker_engine.h"
#include "upstream/http_client.h"

// Lies in its owner. Zeroed: not started.
struct docker_search {
  struct reactor *reactor;
  nsec deadline, pause;
  struct timer timer;
  struct docker_try {
    struct docker_search *search;
    struct endpoint endpoint;
    struct http_request *request; // NULL: it failed, or has not begun
  } tries[DOCKER_PORTS_MAX];
  int n;
  void (*done)(struct docker_search *s, const struct endpoint *found); // NULL: none by the deadline
};

// Asks each of the container's ports for /health again and again until one answers anything in HTTP. `done` is called once, never inside. False when out of memory.
bool docker_search_start(struct docker_search *s, struct reactor *r, const struct docker_container *c, nsec deadline,
                         void (*done)(struct docker_search *s, const struct endpoint *found));
// Ends it in any state.
void docker_search_end(struct docker_search *s);

#endif
