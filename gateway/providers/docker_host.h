// SPDX-License-Identifier: Apache-2.0
// One Docker Engine as this gateway sees it: what all launches on it share. Its API's version is asked once; one stream of events says when containers end;
// an image is pulled once for all who wait for it. When the Engine goes away (a restart), it is looked for until it is back: then every launch looks after its
// container, and what belongs to this gateway's instance and to no launch is removed.
//
// On reactor 0. No callback runs inside a function of this header. Any of them may call any function here.
#ifndef ENVGATE_PROVIDERS_DOCKER_HOST_H
#define ENVGATE_PROVIDERS_DOCKER_HOST_H

#include "providers/docker_engine.h"
#include "providers/docker_pull.h"
#include "providers/provider.h"

struct docker_host;

// A request that may be under way.
struct docker_exchange {
  struct http_request *request; // NULL: none; to be set so at the end by its `done`
  char *path;                   // the request borrows it
};

// The Engine at a socket, for an instance and its key; made on first use. NULL: out of memory. Each get wants its put; the last one ends it all.
struct docker_host *docker_host_get(struct reactor *r, const char *socket, const char *instance, const char *key);
void docker_host_put(struct docker_host *h);

const char *docker_host_socket(const struct docker_host *h);
const char *docker_host_key(const struct docker_host *h);
// Random digits for names, so that no container's name is that of one which is being removed or was left by an earlier life.
const char *docker_host_salt(const struct docker_host *h);
// The prefix of all paths. "" until it is known (docker_host_wait): then the Engine takes its newest.
const char *docker_host_api(const struct docker_host *h);

// Fills `e` with what the Engine did not do: it gave no answer (UNAVAILABLE), or an error (FAILED_PRECONDITION).
void docker_host_failure(const struct docker_host *h, const char *what, const struct http_reply *reply, struct err *e);

// Starts `o` (path, ctx and max_body aside) on an exchange that has none under way. False when out of memory.
bool docker_host_send(struct docker_host *h, struct docker_exchange *x, struct http_options o, void *ctx, const char *path, ...)
    __attribute__((format(printf, 5, 6)));
// Ends it without a callback, if it is under way, and frees it.
void docker_host_cancel(struct docker_exchange *x);

// Who waits for the API's version.
struct docker_waiter {
  struct list link;                                           // list_init before use
  void (*done)(struct docker_waiter *w, const struct err *e); // e: the Engine does not answer (UNAVAILABLE), or is none
};
void docker_host_wait(struct docker_host *h, struct docker_waiter *w);

// Who has a container, or is about to.
struct docker_watch {
  struct list link;          // list_init before use
  char name[DOCKER_REF_MAX]; // set before docker_host_watch
  char id[DOCKER_REF_MAX];   // "": not known yet
  bool out_of_memory;        // the kernel ended something in it
  void (*died)(struct docker_watch *w, int64_t exit_code);
  void (*removed)(struct docker_watch *w); // by whomever; perhaps without `died`
  void (*look)(struct docker_watch *w);    // the Engine was away, and its streams are over
};
void docker_host_watch(struct docker_host *h, struct docker_watch *w);

// Who waits for an image.
struct docker_pull_waiter {
  struct list link;                                                                                // list_init before use
  void (*progress)(struct docker_pull_waiter *w, const struct docker_pull *counts);                // some ten times a second at most
  void (*done)(struct docker_pull_waiter *w, const struct docker_pull *counts, const char *error); // error NULL: it is there
};
// Joins the image's pull, or starts one. False when out of memory.
bool docker_host_pull(struct docker_host *h, const char *image, struct docker_pull_waiter *w);

// Ends waiting and watching, at any time; harmless when it has ended. A pull that nobody waits for any more is given up.
void docker_host_leave(struct docker_host *h, struct list *link);

// docker_adopt.c's: told, at the first list and until `listed`, of each running container that belongs to no launch. True: it was taken.
struct docker_finder {
  bool (*found)(struct docker_finder *f, struct docker_host *h, const struct docker_listed *c);
  void (*listed)(struct docker_finder *f);
};
void docker_host_find(struct docker_host *h, struct docker_finder *f); // NULL: no more

#endif
