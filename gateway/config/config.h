// SPDX-License-Identifier: Apache-2.0
// What the gateway is told: by its configuration file, over which command line options win. Read once at start, then never changed, so every thread
// may read it.
//
// Every setting is one row of a table (options.h). From the rows come the command line, the file's parser, its checks, --help, the JSON
// Schema, and docs/OPTIONS.md.
#ifndef ENVGATE_CONFIG_CONFIG_H
#define ENVGATE_CONFIG_CONFIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "runtime/log.h"

// A list of strings, each ending in NUL; the list ends in NULL.
struct strings {
  char **at;
  size_t n;
};

// Where a value comes from. What is no VALUE_PLAIN is a reference: `value` is a path or a name, and the value itself is read when it is needed
// (config/secrets.h), so a configuration holds no secret.
enum value_source { VALUE_PLAIN, VALUE_FILE, VALUE_ENV };

// Names and values in the order of the file.
struct pairs {
  struct pair {
    char *name, *value;
    enum value_source source;
  } * at;
  size_t n;
};

// Appends copies of all of `from` (may be NULL). False when out of memory; `to` is whole in any case.
bool pairs_add(struct pairs *to, const struct pairs *from);
void pairs_free(struct pairs *p);

// One environment of the file's "environments".
struct env_config {
  char *name;         // [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?; of an inline source "inline_" and its hash
  atomic_uint *holds; // of an inline source's (config/inline.h): it is freed with the last; NULL: the configuration's own
  char *description;  // never NULL
  char *provider;     // "static", "process", "uv", "docker" or "builtin"

  int64_t min_workers;            // 0: kept ready whether anybody asks or not
  int64_t max_workers;            // 8
  int64_t sessions_per_worker;    // 1
  double lease_s;                 // 300; also the most that a caller may ask for
  double idle_timeout_s;          // 0: none
  double step_timeout_s;          // 600: a call that a worker does not answer in that time loses the session
  double ready_timeout_s;         // 60: from the start of its process or container to readiness
  double worker_idle_s;           // 30: a launched worker without sessions is stopped after that
  int64_t max_worker_sessions;    // 0: no limit; a worker is replaced after so many
  double max_worker_age_s;        // 0: no limit; a worker is replaced after that
  double stop_grace_s;            // 10: from SIGTERM to SIGKILL
  int64_t queue_limit;            // 16: calls that may wait on a session
  int64_t log_bytes;              // 262144: of a worker's output are kept
  int64_t max_reply_bytes;        // 104857600: a message from the worker (OpenEnv's client takes 100 MB)
  struct strings forward_headers; // names of the caller's headers that go on to the worker
  struct pairs headers;           // sent with every request to the worker, as on the WebSocket upgrade
  struct pairs env_vars;          // the worker's environment, for providers that launch; uv's extra_env is in it, too
  struct strings pass_env; // variables of the gateway's own that process, uv and builtin workers get, too; a '*' at the end stands for any rest

  struct strings urls; // static: http(s)://host:port[/base] or unix:/path; one worker each
  char *ca_file;       // PEM file of the CAs for https workers; NULL: the system's

  // process: {port} becomes a free port, {socket} the path of a unix socket to listen on, {host} 127.0.0.1. One of {port} and {socket} must appear
  // in the command or the env_vars' values.
  struct strings command;
  char *cwd;                 // NULL: the gateway's own
  int64_t rlimit_data;       // process, uv: RLIMIT_DATA of each process; 0: as the gateway's
  int64_t rlimit_open_files; // process, uv: RLIMIT_NOFILE of each process; 0: as the gateway's

  // builtin: the reference worker. `builtin` is "echo", "cartpole" or "pixels"; `builtin_args` are further options of `envgate worker`.
  char *builtin;
  struct strings builtin_args;

  // uv: exactly one of project, space and project_url
  char *uv_project;            // a local path
  char *uv_space;              // "org/name": git+https://huggingface.co/spaces/org/name
  char *uv_project_url;        // anything that `uv run --with` takes
  char *uv_app;                // an ASGI app as module:name, run by uvicorn; NULL: see uv.c
  char *uv_host;               // where to listen; NULL: on a unix socket if the server takes one, else 127.0.0.1
  int64_t uv_port;             // 0: a free one
  char *uv_connect_host;       // where the gateway reaches it; NULL: at uv_host
  int64_t uv_workers;          // 1: uvicorn processes
  double uv_install_timeout_s; // 1800: from launch until the server is run
  bool uv_reload;              // uvicorn --reload
  struct pairs uv_extra_env;   // empty once it is read: its pairs are in env_vars
  char *uv_path;               // the uv program; "uv"
  struct strings uv_args;      // further arguments of `uv run`
  struct strings server_args;  // further arguments of the server

  // docker: image or space; once it is read, the image is always there
  char *image;
  char *docker_space;            // "org/name": its image is registry.hf.space/org-name:tag
  char *docker_tag;              // "latest"
  int64_t port;                  // the port that the worker listens on in the container; 0: as the image says
  char *docker_host;             // unix:///var/run/docker.sock
  struct pairs labels;           // beside the gateway's own
  char *network;                 // the network mode or name; NULL: the Engine's default
  bool publish;                  // dial a port published on 127.0.0.1 in place of the container's address
  bool init;                     // true
  bool read_only;                // the root file system, but for /tmp
  struct strings docker_mounts;  // SOURCE:TARGET[:ro]
  struct strings cap_add;        // capabilities to keep
  int64_t memory_bytes;          // 4 GiB; 0: no limit
  double cpus;                   // 0: no limit
  int64_t pids_limit;            // 2048; 0: no limit
  struct strings docker_command; // in place of the image's CMD; empty: the image's
};

enum tls_client_cert { CLIENT_CERT_REQUIRED, CLIENT_CERT_OPTIONAL };
enum tls_plaintext { PLAINTEXT_REFUSE, PLAINTEXT_LOOPBACK, PLAINTEXT_ALLOW };

struct config {
  char *listen;         // "127.0.0.1:8080" or "unix:/path"
  int64_t threads;      // 0: the cores allowed
  int64_t busy_poll_us; // 0: a loop without events sleeps at once
  enum log_level log_level;
  enum log_format log_format;
  bool access_log;           // a line for each finished call
  int64_t max_message_bytes; // 4194304: a request message, and what gRPC callers may send
  int64_t max_json_depth;    // 64
  int64_t max_header_bytes;  // 16384: a request's header fields in all
  int64_t max_connections;   // 16384
  int64_t max_streams;       // 128: concurrent streams of an HTTP/2 connection
  double header_timeout_s;   // 10
  double body_timeout_s;     // 30
  double idle_connection_s;  // 300
  double shutdown_grace_s;   // 25: from SIGTERM until the end
  int64_t max_launches;      // 8: workers that may be starting at a time, of all environments
  char *tls_cert_file;       // NULL: no TLS
  char *tls_key_file;        // NULL: it is in tls_cert_file
  char *tls_client_ca_file;  // NULL: no client certificates
  enum tls_client_cert tls_client_cert;
  enum tls_plaintext tls_plaintext;    // without TLS all is plaintext
  double tls_handshake_timeout_s;      // 10
  int64_t tls_max_handshakes;          // 256: under way in all
  char *auth_file;                     // NULL: everybody may do everything
  bool metrics_open;                   // /metrics needs no credential
  struct strings cors_allowed_origins; // of pages that may call from a browser; "*" among them: any. Empty: none
  int64_t quota_sessions, quota_calls; // of a principal; 0: no limit
  double quota_calls_per_s;            // the same
  char *state_dir; // where sockets of launched workers lie; NULL: a directory of its own under $XDG_RUNTIME_DIR or /tmp, removed at exit
  char *self;      // the gateway's own program, for builtin workers (/proc/self/exe, resolved)

  struct env_config *envs;
  size_t n_envs;

  // What callers may have launched that is no environment of the file (config/inline.h). All empty: nothing.
  struct strings inline_images, inline_spaces, inline_project_urls, inline_paths;
  struct strings inline_env_vars;  // the names that callers may set
  int64_t inline_max_pools;        // 16: sources with workers at a time
  struct env_config inline_common; // what all of them have in common
};

// One mistake, with where it is.
struct config_mistake {
  char *path; // "environments.echo.max_workers"; "" for the file itself
  int line;   // 0: of the file as a whole
  char *text; // what is wrong, and what would be right
};
struct config_mistakes {
  struct config_mistake *at;
  size_t n;
};

// A config of the defaults and the built-in environments echo, cartpole and pixels. NULL: out of memory.
struct config *config_default(void);

// Parses a whole file's text. Returns NULL and the mistakes (none: out of memory), or a config and none: all mistakes are found, not only the first. Where the
// JSON itself is broken, that is the only one. Owner of both is the caller.
struct config *config_parse(struct str text, struct config_mistakes *mistakes);

// Reads and parses the file; a file that can't be read is a mistake, too.
struct config *config_load(const char *path, struct config_mistakes *mistakes);

// The environment of that name, or NULL.
const struct env_config *config_env(const struct config *c, struct str name);

void config_mistakes_free(struct config_mistakes *m);
void config_free(struct config *c);

#endif
