// SPDX-License-Identifier: Apache-2.0
// How workers come to be. A provider launches one worker at a time, says where it is, tells when it died, and stops it. Readiness is none of its business
// (pool/readiness.h probes that). A provider sees this header and what is below it, no more.
//
// All on reactor 0. Callbacks run on its thread and never inside start or stop.
#ifndef ENVGATE_PROVIDERS_PROVIDER_H
#define ENVGATE_PROVIDERS_PROVIDER_H

#include "config/config.h"
#include "runtime/reactor.h"
#include "upstream/http_client.h"

// A provider's own state for one worker; the first member of its struct.
struct launch {
  const struct provider *provider;
};

struct launch_spec {
  struct reactor *reactor;
  const struct env_config *env;
  const struct pairs *env_vars; // env's, with their references read; those that were one (source) are taken as they are, without placeholders
  const char *worker_id;        // unique in this gateway's life and short, fit for names and labels
  const char *instance;  // the gateway's own id, for labels; the same after a restart where state_dir lasts, and never that of two gateways alive
  const char *key;       // goes with the instance, and is nobody else's to know
  const char *adopt;     // set: an adoption's handle; the worker found is taken over, no new one launched
  const char *state_dir; // for unix sockets
  int ordinal;           // static: which of the environment's urls
};

// What a launch is at, for those who wait for it. Counts are 0 where they are not known (yet); they never go back.
enum launch_phase {
  LAUNCH_WAITING,    // for its turn
  LAUNCH_PULLING,    // the image: layers and bytes
  LAUNCH_INSTALLING, // what the project needs (uv)
  LAUNCH_STARTING,   // the container or process
  LAUNCH_BOOTING,    // it runs, and does not answer yet
};
struct launch_progress {
  enum launch_phase phase;
  uint32_t layers, layers_done;
  uint64_t bytes, bytes_done;
};

struct launch_events {
  // It has got further. Optional (may be NULL); comes any number of times before `ended`, at most some ten times a second.
  void (*progress)(void *ctx, const struct launch_progress *p);
  // The worker wrote something to its standard output or error, in pieces as they come. Optional (may be NULL). Hostile bytes: not for the gateway's log.
  void (*output)(void *ctx, struct str bytes);
  // It was launched and will listen at `ep` (copied by the callee if kept; its ca_file and headers are the callee's to set). Readiness comes later. Called
  // again when it had to be launched anew at another address because its port was taken.
  void (*started)(void *ctx, const struct endpoint *ep);
  // It could not be launched, or it ended by itself, before or after `started`. `e` is FAILED_PRECONDITION (WORKER_START_FAILED) with what happened (exit code or
  // signal, Engine error) in the first line and the last lines of its log in those after (log_tail_explain). Called at most once, as soon as it is known. Not after stop.
  // The launch stays valid until stop, which must still be called, frees then, and waits for what is left of the worker (a container's removal) to be gone.
  void (*ended)(void *ctx, const struct err *e);
};

// What an earlier life of this gateway left behind when it was killed (the same instance): workers that run without anybody to stop them.
struct adoption_events {
  // One that runs and was launched with the very settings that `env` has now. True: the callee takes it by start(), inside, with launch_spec.adopt = `handle` and the
  // id it had, which no other worker may be given then; whether it is healthy shows as with any launch (readiness). False: it is removed like all that does not fit.
  bool (*found)(void *ctx, const struct env_config *env, const char *worker_id, const char *handle);
  // All that there was has been told, or there was no looking (the Engine does not answer: it is looked for again when it does, and then what is found is removed):
  // the time to launch new ones has come. Called once, within a few seconds, never inside adopt.
  void (*listed)(void *ctx);
};

struct provider {
  const char *name; // as in the configuration
  // Launches. NULL with `e` set when it cannot even begin. spec's pointers live as long as the launch, except worker_id and adopt, which are copied.
  struct launch *(*start)(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e);
  // The last lines of the worker's output, at most `max` bytes, as UTF-8 text for error messages ("" where there is none).
  void (*log_tail)(struct launch *l, char *text, size_t max);
  // Stops the worker and all that belongs to it (process group, container): SIGTERM, after stop_grace_s SIGKILL. `stopped` is called once nothing is left; the launch
  // is freed by then. After stop no other callback comes. Fine in every state, also while it starts.
  void (*stop)(struct launch *l, void (*stopped)(void *ctx), void *ctx);
  // Optional (NULL: what it launches dies with the gateway). Called once in the gateway's life, before any start; looks for what an earlier life left of any of the
  // configured environments of this provider. What it returns is kept until adopt_end, which ends it in any state (no callback any more), after the last launch is
  // gone. NULL: there is nothing to look for, or out of memory; no callback comes.
  struct adoption *(*adopt)(struct reactor *r, const char *instance, const char *key, const struct adoption_events *events, void *ctx);
  void (*adopt_end)(struct adoption *a);
};

// The provider of that name, or NULL.
const struct provider *provider_find(const char *name);

#endif
