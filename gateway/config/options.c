// SPDX-License-Identifier: Apache-2.0
#include "config/options.h"

#include "base/json.h"
#include "config/config.h"

// Each names a row's type and target in one go; a target of another type does not compile.
#define TARGET(owner, field, T) offsetof(owner, field) + 0 * sizeof(char[__builtin_types_compatible_p(__typeof__(((owner *)0)->field), T) ? 1 : -1])
#define G_STRING(f) .scope = IN_GATEWAY, .type = SET_STRING, .offset = TARGET(struct config, f, char *)
#define G_INT(f) .scope = IN_GATEWAY, .type = SET_INT, .offset = TARGET(struct config, f, int64_t)
#define G_SIZE(f) .scope = IN_GATEWAY, .type = SET_SIZE, .offset = TARGET(struct config, f, int64_t), .unit = "bytes"
#define G_NUMBER(f) .scope = IN_GATEWAY, .type = SET_NUMBER, .offset = TARGET(struct config, f, double)
#define G_SECONDS(f) G_NUMBER(f), .unit = "seconds"
#define G_BOOL(f) .scope = IN_GATEWAY, .type = SET_BOOL, .offset = TARGET(struct config, f, bool)
#define G_STRINGS(f) .scope = IN_GATEWAY, .type = SET_STRINGS, .offset = TARGET(struct config, f, struct strings), .max = LIST_MAX
#define G_ENUM(f, T) .scope = IN_GATEWAY, .type = SET_ENUM, .offset = TARGET(struct config, f, T)
#define I_STRINGS(f) .scope = IN_INLINE, .type = SET_STRINGS, .offset = TARGET(struct config, f, struct strings), .max = LIST_MAX
#define I_INT(f) .scope = IN_INLINE, .type = SET_INT, .offset = TARGET(struct config, f, int64_t)
#define E_STRING(f) .scope = IN_ENVIRONMENT, .type = SET_STRING, .offset = TARGET(struct env_config, f, char *)
#define E_INT(f) .scope = IN_ENVIRONMENT, .type = SET_INT, .offset = TARGET(struct env_config, f, int64_t)
#define E_SIZE(f) .scope = IN_ENVIRONMENT, .type = SET_SIZE, .offset = TARGET(struct env_config, f, int64_t), .unit = "bytes"
#define E_NUMBER(f) .scope = IN_ENVIRONMENT, .type = SET_NUMBER, .offset = TARGET(struct env_config, f, double)
#define E_SECONDS(f) E_NUMBER(f), .unit = "seconds"
#define E_BOOL(f) .scope = IN_ENVIRONMENT, .type = SET_BOOL, .offset = TARGET(struct env_config, f, bool)
#define E_STRINGS(f) .scope = IN_ENVIRONMENT, .type = SET_STRINGS, .offset = TARGET(struct env_config, f, struct strings)
#define E_PAIRS(f) .scope = IN_ENVIRONMENT, .type = SET_PAIRS, .offset = TARGET(struct env_config, f, struct pairs), .max = PAIRS_MAX

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define KIB 1024.0
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)
#define YEAR 31536000.0
// The shortest time limit; a limit of 0 would end everything at once.
#define MOMENT 0.01
#define LIST_MAX 1000

// What process and uv have in common.
#define RLIMIT_DATA_ROW        \
  .def = "0", .max = 64 * TIB, \
  .help = "The most data (heap, stack, private mappings) that each process of a worker may have: RLIMIT_DATA. 0: as the gateway's."
#define RLIMIT_OPEN_FILES_ROW \
  .def = "0", .max = 1048576, .help = "The most descriptors that each process of a worker may have open: RLIMIT_NOFILE. 0: as the gateway's."

#define HOST_PATTERN "([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])"
// 0 to 65535
#define PORT_PATTERN "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"

#define SPACE_PATTERN "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"

const char *const provider_names[] = {"static", "process", "uv", "docker", "builtin", NULL};
_Static_assert(sizeof provider_names / sizeof *provider_names == PROVIDER_COUNT + 1, "PROVIDER_COUNT is wrong");

const struct setting settings[] = {
    // --- the gateway ---
    {.key = "listen",
     G_STRING(listen),
     .def = "127.0.0.1:8080",
     .pattern = "^(" HOST_PATTERN ":" PORT_PATTERN "|unix:/.+)$",
     .form = "HOST:PORT, [IPV6]:PORT or unix:/PATH",
     .help = "Where to listen. Port 0: any free one."},
    {.key = "threads", G_INT(threads), .def = "0", .max = 256, .help = "Threads that serve calls. 0: as many as the cores that the process may use."},
    {.key = "busy_poll_us",
     G_INT(busy_poll_us),
     .def = "0",
     .min = 0,
     .max = 1000000,
     .unit = "MICROSECONDS",
     .help = "How long a thread spins after its last event before it sleeps. A lonely call is answered in a third of the time, as nobody has to be "
             "woken; the price is a core for each thread while calls come more often than that."},
    {.key = "log_level",
     G_ENUM(log_level, enum log_level),
     .def = "info",
     .values = LIST("debug", "info", "warn", "error"),
     .help = "Log lines below this level are not written."},
    {.key = "log_format",
     G_ENUM(log_format, enum log_format),
     .def = "logfmt",
     .values = LIST("logfmt", "json"),
     .help = "How log lines are written."},
    {.key = "access_log", G_BOOL(access_log), .def = "true", .help = "Write a log line for each finished call."},
    {.key = "max_message_bytes", G_SIZE(max_message_bytes), .def = "4194304", .min = KIB, .max = GIB, .help = "The largest request message."},
    {.key = "max_json_depth",
     G_INT(max_json_depth),
     .def = "64",
     .min = 1,
     .max = JSON_DEPTH_MAX,
     .help = "How deep JSON in requests and payloads may nest; [[1]] has depth 2."},
    {.key = "max_header_bytes",
     G_SIZE(max_header_bytes),
     .def = "16384",
     .min = KIB,
     .max = MIB,
     .help = "The size of a request's header fields in all."},
    {.key = "max_connections",
     G_INT(max_connections),
     .def = "16384",
     .min = 1,
     .max = 1048576,
     .help = "Connections open at a time; more wait to be accepted."},
    {.key = "max_streams", G_INT(max_streams), .def = "128", .min = 1, .max = 10000, .help = "Calls at a time on one HTTP/2 connection."},
    {.key = "header_timeout_s",
     G_SECONDS(header_timeout_s),
     .def = "10",
     .min = MOMENT,
     .max = YEAR,
     .help = "A caller's connection is closed when a request's header takes longer, or the first does not come in that time."},
    {.key = "body_timeout_s",
     G_SECONDS(body_timeout_s),
     .def = "30",
     .min = MOMENT,
     .max = YEAR,
     .help = "A request is given up when nothing more of its body comes for that time. Not the requests of a client stream, which last."},
    {.key = "idle_connection_s",
     G_SECONDS(idle_connection_s),
     .def = "300",
     .min = 1,
     .max = YEAR,
     .help = "A caller's connection without calls is closed after that time, and so is one that takes none of its replies. Calls whose large replies "
             "wait "
             "because the caller takes none of those before are ended after that time, too, but after 15 s at most."},
    {.key = "shutdown_grace_s",
     G_SECONDS(shutdown_grace_s),
     .def = "25",
     .max = YEAR,
     .help = "The time from SIGTERM until the gateway ends. Running calls are given up before that by the longest stop_grace_s and a second, or at "
             "half of it where that is "
             "less; what workers still run at its end is killed."},
    {.key = "max_launches",
     G_INT(max_launches),
     .def = "8",
     .min = 1,
     .max = 1000,
     .help = "How many workers may be starting at a time, of all environments together, which take turns. Workers whose image is being pulled do not "
             "count."},
    {.key = "tls_cert_file",
     G_STRING(tls_cert_file),
     .min = 1,
     .help = "A PEM file of the gateway's certificate, with the chain behind it. Turns TLS on, on the same port. This file, the key and the client "
             "CAs are taken up "
             "anew when they change."},
    {.key = "tls_key_file",
     G_STRING(tls_key_file),
     .min = 1,
     .help = "A PEM file of the certificate's key. Without it: the key is in tls_cert_file."},
    {.key = "tls_client_ca_file",
     G_STRING(tls_client_ca_file),
     .min = 1,
     .help = "A PEM file of the authorities that clients' certificates are checked against (mTLS). Without it: clients are not asked for one."},
    {.key = "tls_client_cert",
     G_ENUM(tls_client_cert, enum tls_client_cert),
     .def = "required",
     .values = LIST("required", "optional"),
     .help = "With tls_client_ca_file: whether a client without a certificate is refused."},
    {.key = "tls_plaintext",
     G_ENUM(tls_plaintext, enum tls_plaintext),
     .def = "refuse",
     .values = LIST("refuse", "loopback", "allow"),
     .help = "With tls_cert_file: whether plaintext is still taken, from nobody, from this machine (loopback, unix socket) or from everybody."},
    {.key = "tls_handshake_timeout_s",
     G_SECONDS(tls_handshake_timeout_s),
     .def = "10",
     .min = 0.1,
     .max = YEAR,
     .help = "The time from a connection's start until its TLS handshake must be done."},
    {.key = "tls_max_handshakes",
     G_INT(tls_max_handshakes),
     .def = "256",
     .min = 1,
     .max = 1048576,
     .help = "TLS handshakes under way at a time; more wait for their turn within their tls_handshake_timeout_s. Each thread has its share."},
    {.key = "auth_file",
     G_STRING(auth_file),
     .min = 1,
     .help = "A file of credentials, a line each, as `envgate token new` prints them; docs/SECURITY.md has its form. It is taken up anew when it "
             "changes. "
             "Without it: everybody who reaches the port may do everything."},
    {.key = "metrics_open",
     G_BOOL(metrics_open),
     .def = "false",
     .help = "With auth_file: answer /metrics to everybody, not only to trainers and admins."},
    {.key = "cors_allowed_origins",
     G_STRINGS(cors_allowed_origins),
     .pattern = "^([*]|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\\[[0-9a-f:.]+\\])(:" PORT_PATTERN ")?)$",
     .form = "'*' or an origin as browsers write it, SCHEME://HOST[:PORT] in lower case",
     .help =
         "The origins of web pages that may call the gateway from a browser (CORS), as \"https://lab.example.org\". '*': pages of any origin, which "
         "then send no cookies or client certificates; a bearer token they may. Without it: only pages of the gateway's own origin."},
    {.key = "quota_sessions",
     G_INT(quota_sessions),
     .def = "0",
     .max = 1e9,
     .help = "With auth_file: sessions that a principal may have, unless its line says otherwise. 0: no limit."},
    {.key = "quota_calls",
     G_INT(quota_calls),
     .def = "0",
     .max = 1e9,
     .help = "With auth_file: calls that a principal may have under way, unless its line says otherwise. 0: no limit."},
    {.key = "quota_calls_per_s",
     G_NUMBER(quota_calls_per_s),
     .def = "0",
     .max = 1e9,
     .help = "With auth_file: calls a second that a principal may make, unless its line says otherwise; a batch is one. 0: no limit."},
    {.key = "state_dir",
     G_STRING(state_dir),
     .pattern = "^/",
     .form = "an absolute path of at most 64 bytes",
     .max = 64,
     .help = "The folder for the sockets of launched workers. Without it: one of its own below $XDG_RUNTIME_DIR or /tmp, removed at exit."},

    // --- inline sources ---
    {.key = "images",
     I_STRINGS(inline_images),
     .pattern = "^([*]|sha256:[0-9a-f]{64}|[A-Za-z0-9][A-Za-z0-9._/:@-]*[*]?)$",
     .form = "an image's whole name, the beginning of one with '*' behind it, or sha256:DIGEST",
     .help = "The Docker images that callers may name. \"registry.example.com/envs/*\" allows what begins so, \"sha256:…\" what is pinned to that "
             "digest."},
    {.key = "spaces",
     I_STRINGS(inline_spaces),
     .pattern = "^([*]|[A-Za-z0-9][A-Za-z0-9._-]*/([*]|[A-Za-z0-9][A-Za-z0-9._-]*[*]?))$",
     .form = "ORG/NAME, or the beginning of it with '*' behind it",
     .help = "The Hugging Face Spaces that callers may name, by docker or uv."},
    {.key = "project_urls",
     I_STRINGS(inline_project_urls),
     .pattern = "^([*]|[A-Za-z0-9][^*, ]*[*]?)$",
     .form = "a project's whole URL, or the beginning of one with '*' behind it",
     .help = "The URLs of projects that callers may have run by uv, on the gateway's machine, as \"git+https://git.example.com/envs/*\"."},
    {.key = "paths",
     I_STRINGS(inline_paths),
     .pattern = "^/[^*]*[*]?$",
     .form = "an absolute path, or the beginning of one with '*' behind it",
     .help = "The folders of projects that callers may have run by uv, on the gateway's machine. Links are resolved before they are compared."},
    {.key = "env_vars",
     I_STRINGS(inline_env_vars),
     .pattern = "^([*]|[A-Za-z_][A-Za-z0-9_]*[*]?)$",
     .form = "a variable's name, or the beginning of one with '*' behind it",
     .help = "The environment variables that callers may set in such workers. Mind what uv and Python make of theirs (UV_INDEX_URL, PYTHONPATH)."},
    {.key = "max_pools",
     I_INT(inline_max_pools),
     .def = "16",
     .min = 1,
     .max = 1000,
     .help = "How many different sources may have workers at a time. Callers who name the same source share its workers; a source that nobody has "
             "used for a minute "
             "is forgotten."},

    // --- every environment ---
    {.key = "description", E_STRING(description), .def = "", .help = "What the environment is for; shown to callers."},
    {.key = "provider",
     E_STRING(provider),
     .values = provider_names,
     .help = "How workers come to be. May be left out: the one of these objects that is given says it."},
    {.key = "min_workers",
     E_INT(min_workers),
     .def = "0",
     .max = 10000,
     .help = "How many workers are kept ready whether anybody asks or not. Lost ones are replaced."},
    {.key = "max_workers",
     E_INT(max_workers),
     .def = "8",
     .min = 1,
     .max = 10000,
     .help = "How many workers run or start at most. With the provider static it is the number of urls, and may be left out."},
    {.key = "sessions_per_worker",
     E_INT(sessions_per_worker),
     .def = "1",
     .min = 1,
     .max = 10000,
     .help = "How many sessions a worker takes at a time. OpenEnv's own default (MAX_CONCURRENT_ENVS) is 1."},
    {.key = "lease_s",
     E_SECONDS(lease_s),
     .def = "300",
     .min = MOMENT,
     .max = YEAR,
     .help = "A session is closed after that time without any call that names it. Also the longest lease that a caller may ask for."},
    {.key = "idle_timeout_s",
     E_SECONDS(idle_timeout_s),
     .def = "0",
     .max = YEAR,
     .help = "A session is closed after that time without Reset, Step or GetState, even when its lease is renewed. 0: no such limit."},
    {.key = "step_timeout_s",
     E_SECONDS(step_timeout_s),
     .def = "600",
     .min = MOMENT,
     .max = YEAR,
     .help = "A call that the worker does not answer in that time loses the session."},
    {.key = "ready_timeout_s",
     E_SECONDS(ready_timeout_s),
     .def = "60",
     .min = MOMENT,
     .max = YEAR,
     .help = "The time from the start of a worker's process or container until it must answer /health and, from OpenEnv 0.2 on, take a WebSocket. "
             "Pulling its image or installing it does not count."},
    {.key = "worker_idle_s",
     E_SECONDS(worker_idle_s),
     .def = "30",
     .max = YEAR,
     .help = "A launched worker without sessions is stopped after that time, unless it is one of min_workers."},
    {.key = "max_worker_sessions",
     E_INT(max_worker_sessions),
     .def = "0",
     .max = 1000000000,
     .help = "A worker that has had so many sessions takes no more, and is stopped when the last has ended; with min_workers another is launched "
             "at once. 1: a new worker for each session. 0: no limit. Not for static."},
    {.key = "max_worker_age_s",
     E_SECONDS(max_worker_age_s),
     .def = "0",
     .max = YEAR,
     .help = "A worker that has been ready for that time is replaced: it takes no more sessions once another is ready (at once, where max_workers "
             "leaves no "
             "room for that), and is stopped when its last has ended. 0: no limit. Not for static."},
    {.key = "stop_grace_s", E_SECONDS(stop_grace_s), .def = "10", .max = YEAR, .help = "The time from SIGTERM to SIGKILL when a worker is stopped."},
    {.key = "queue_limit", E_INT(queue_limit), .def = "16", .max = 10000, .help = "How many calls may wait for their turn on a session."},
    {.key = "max_reply_bytes", E_SIZE(max_reply_bytes), .def = "104857600", .min = KIB, .max = GIB, .help = "The largest message from a worker."},
    {.key = "log_bytes",
     E_SIZE(log_bytes),
     .def = "262144",
     .min = 4 * KIB,
     .max = 64 * MIB,
     .help = "How much of what a worker writes is kept for StreamLogs and `envgate logs`: the newest, in memory, and only as much as there is."},
    {.key = "headers",
     E_PAIRS(headers),
     .name_pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
     .pattern = "^([!-~]([ -~]*[!-~])?)?$",
     .name_form = "a header field's name (RFC 9110)",
     .form = "printable ASCII with no space at either end",
     .references = true,
     .help = "Header fields sent with every request to a worker, as on its WebSocket upgrade; say, a bearer token."},
    {.key = "forward_headers",
     E_STRINGS(forward_headers),
     .max = 100,
     .pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
     .form = "a header field's name (RFC 9110)",
     .help = "Names of the caller's header fields that go on to the worker: with each request over plain HTTP, with the WebSocket upgrade otherwise. "
             "traceparent and "
             "tracestate always do, Authorization never. A name in headers is not overwritten."},
    {.key = "env_vars",
     E_PAIRS(env_vars),
     .name_pattern = "^[A-Za-z_][A-Za-z0-9_]*$",
     .name_form = "letters, digits and '_', with no digit in front",
     .references = true,
     .help = "Environment variables of the workers. Not for static. A value that is {\"file\": PATH} or {\"env\": NAME}, here and in headers, is "
             "read from "
             "that file (without the line end at its end) or from the gateway's environment each time a worker is launched."},
    {.key = "pass_env",
     E_STRINGS(pass_env),
     .max = PAIRS_MAX,
     .pattern = "^[A-Za-z_][A-Za-z0-9_]*[*]?$",
     .form = "a variable's name, or its beginning and '*'",
     .help = "Variables of the gateway's own environment that process, uv and builtin workers get, too. Without it only PATH, HOME, LANG and TMPDIR "
             "are passed on, and to uv where its cache, its Pythons and the system's certificates lie."},

    // --- provider static ---
    {.key = "urls",
     .provider = "static",
     E_STRINGS(urls),
     .required = true,
     .min = 1,
     .max = 10000,
     .pattern = "^((http|ws)s?://" HOST_PATTERN "(:" PORT_PATTERN ")?(/[!\"$->@-~]*)?|unix:/.+)$",
     .form = "http(s)://HOST[:PORT][/BASE], ws(s)://HOST[:PORT][/BASE] or unix:/PATH",
     .help = "Workers that run already, one url each. ws and wss stand for http and https, as a worker has both on one port."},
    {.key = "ca_file",
     .provider = "static",
     E_STRING(ca_file),
     .min = 1,
     .help = "A PEM file of the authorities that https workers' certificates are checked against. Without it: the system's."},

    // --- provider process ---
    {.key = "command",
     .provider = "process",
     E_STRINGS(command),
     .required = true,
     .min = 1,
     .help = "The program and its arguments. {port} stands for a free port, {socket} for the path of a unix socket to listen on, {host} for "
             "127.0.0.1. Exactly "
             "one of {port} and {socket} must appear, here or in env_vars' values."},
    {.key = "cwd", .provider = "process", E_STRING(cwd), .min = 1, .help = "The folder to run in. Without it: the gateway's own."},
    {.key = "memory_bytes", .provider = "process", E_SIZE(rlimit_data), RLIMIT_DATA_ROW},
    {.key = "open_files", .provider = "process", E_INT(rlimit_open_files), RLIMIT_OPEN_FILES_ROW},

    // --- provider uv ---
    {.key = "project",
     .provider = "uv",
     E_STRING(uv_project),
     .min = 1,
     .help = "The path of an OpenEnv project on this machine. Exactly one of project, space and project_url is needed."},
    {.key = "space",
     .provider = "uv",
     E_STRING(uv_space),
     .pattern = SPACE_PATTERN,
     .form = "ORG/NAME",
     .help = "A Hugging Face Space: git+https://huggingface.co/spaces/ORG/NAME."},
    {.key = "project_url",
     .provider = "uv",
     E_STRING(uv_project_url),
     .pattern = "^[^-]",
     .form = "a requirement that `uv run --with` takes",
     .help = "Where to install the project from: anything that `uv run --with` takes."},
    {.key = "app",
     .provider = "uv",
     E_STRING(uv_app),
     .pattern = "^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$",
     .form = "MODULE:NAME",
     .help = "An ASGI app, run by uvicorn. Without it: server.app:app where the project's folder has server/app.py, as OpenEnv's own provider "
             "does, else the project's `server` script."},
    {.key = "host",
     .provider = "uv",
     E_STRING(uv_host),
     .pattern = "^" HOST_PATTERN "$",
     .form = "a host's name or address, an IPv6 one in []",
     .help = "Where the worker listens. Without host, port and connect_host an app listens on a unix socket, which nobody else can take or reach, "
             "and a `server` script on 127.0.0.1."},
    {.key = "port",
     .provider = "uv",
     E_INT(uv_port),
     .def = "0",
     .max = 65535,
     .help = "The port to listen on; max_workers is 1 then. 0: a free one, held until the worker has ended."},
    {.key = "connect_host",
     .provider = "uv",
     E_STRING(uv_connect_host),
     .pattern = "^" HOST_PATTERN "$",
     .form = "a host's name or address, an IPv6 one in []",
     .help = "Where the gateway reaches the worker. Without it: at host, or at 127.0.0.1 if that stands for all addresses."},
    {.key = "workers",
     .provider = "uv",
     E_INT(uv_workers),
     .def = "1",
     .min = 1,
     .max = 256,
     .help = "uvicorn processes that share the work of one worker. Each takes its own number of sessions (MAX_CONCURRENT_ENVS); "
             "sessions_per_worker is what they take together."},
    {.key = "install_timeout_s",
     .provider = "uv",
     E_SECONDS(uv_install_timeout_s),
     .def = "1800",
     .min = MOMENT,
     .max = YEAR,
     .help = "How long uv may take to install what the project needs. ready_timeout_s counts from then on."},
    {.key = "reload",
     .provider = "uv",
     E_BOOL(uv_reload),
     .def = "false",
     .help = "Have uvicorn start the app anew when its code changes, for development; sessions are lost then."},
    {.key = "extra_env",
     .provider = "uv",
     E_PAIRS(uv_extra_env),
     .name_pattern = "^[A-Za-z_][A-Za-z0-9_]*$",
     .name_form = "letters, digits and '_', with no digit in front",
     .references = true,
     .help = "More env_vars, as OpenEnv's provider calls them; they win over those."},
    {.key = "memory_bytes", .provider = "uv", E_SIZE(rlimit_data), RLIMIT_DATA_ROW},
    {.key = "open_files", .provider = "uv", E_INT(rlimit_open_files), RLIMIT_OPEN_FILES_ROW},
    {.key = "path", .provider = "uv", E_STRING(uv_path), .def = "uv", .min = 1, .help = "The uv program."},
    {.key = "args", .provider = "uv", E_STRINGS(uv_args), .help = "More arguments of `uv run`."},
    {.key = "server_args",
     .provider = "uv",
     E_STRINGS(server_args),
     .help = "More arguments of the server. A `server` script that can listen on a unix socket is told so here, with {socket} for its path; it gets "
             "no --host and --port then."},

    // --- provider docker ---
    {.key = "image",
     .provider = "docker",
     E_STRING(image),
     .pattern = "^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
     .form = "an image's name",
     .help = "The image. It is pulled when it is not there. Either this or space is needed."},
    {.key = "space",
     .provider = "docker",
     E_STRING(docker_space),
     .pattern = SPACE_PATTERN,
     .form = "ORG/NAME",
     .help =
         "A Hugging Face Space, which stands for the image registry.hf.space/ORG-NAME:TAG (in lower case, with '-' for what is neither a letter nor "
         "a digit), unless image is given, too."},
    {.key = "tag",
     .provider = "docker",
     E_STRING(docker_tag),
     .def = "latest",
     .pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
     .form = "an image's tag",
     .help = "The tag of the Space's image."},
    {.key = "port",
     .provider = "docker",
     E_INT(port),
     .min = 1,
     .max = 65535,
     .help = "The port that the worker listens on in the container. Without it: the one that the image exposes (of several 8000, else 7860, else the "
             "lowest), and where it exposes none, whichever of 8000 and 7860 answers."},
    {.key = "host",
     .provider = "docker",
     E_STRING(docker_host),
     .def = "unix:///var/run/docker.sock",
     .pattern = "^unix:///.",
     .form = "unix:///PATH",
     .help = "The Docker Engine's socket."},
    {.key = "labels",
     .provider = "docker",
     E_PAIRS(labels),
     .name_pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]*$",
     .name_form = "letters, digits, '.', '_', '/' and '-', with a letter or digit in front",
     .help = "Labels of the container, beside the gateway's own."},
    {.key = "network", .provider = "docker", E_STRING(network), .min = 1, .help = "The network's mode or name. Without it: the Engine's default."},
    {.key = "publish",
     .provider = "docker",
     E_BOOL(publish),
     .def = "false",
     .help = "Reach the worker through a port published on 127.0.0.1 in place of the container's address: slower, but needed where that is out of "
             "reach."},
    {.key = "init", .provider = "docker", E_BOOL(init), .def = "true", .help = "Run an init process in the container, so that it stops at once."},
    {.key = "read_only",
     .provider = "docker",
     E_BOOL(read_only),
     .def = "false",
     .help = "Mount the container's root file system read-only; /tmp is writable memory then."},
    {.key = "mounts",
     .provider = "docker",
     E_STRINGS(docker_mounts),
     .max = 100,
     .pattern = "^(/[^:]*|[A-Za-z0-9][A-Za-z0-9_.-]*):/[^:]*(:ro)?$",
     .form = "SOURCE:/TARGET or SOURCE:/TARGET:ro, where SOURCE is an absolute path or a volume's name",
     .help = "What the container sees of the host: folders or files, which must exist, and volumes, which are made. Without it: nothing."},
    {.key = "cap_add",
     .provider = "docker",
     E_STRINGS(cap_add),
     .max = 64,
     .pattern = "^[A-Z_]+$",
     .form = "a capability's name, as SETUID",
     .help = "Capabilities that the container keeps. Without it: none, not even those that Docker gives by default."},
    {.key = "memory_bytes",
     .provider = "docker",
     E_SIZE(memory_bytes),
     .def = "4294967296",
     .max = 64 * TIB,
     .help = "The container's memory limit. 0: none."},
    {.key = "cpus",
     .provider = "docker",
     E_NUMBER(cpus),
     .def = "0",
     .max = 1024,
     .unit = "CPUs",
     .help = "The container's CPU limit. 0: none; the kernel shares the CPUs evenly between containers."},
    {.key = "pids_limit",
     .provider = "docker",
     E_INT(pids_limit),
     .def = "2048",
     .max = 4194304,
     .help = "How many processes and threads the container may have. 0: no limit."},
    {.key = "command", .provider = "docker", E_STRINGS(docker_command), .help = "The command in place of the image's own."},

    // --- provider builtin ---
    {.key = "environment",
     .provider = "builtin",
     E_STRING(builtin),
     .required = true,
     .values = LIST("echo", "cartpole", "pixels"),
     .help = "Which of the gateway's own environments, for trying it out and for measuring."},
    {.key = "args", .provider = "builtin", E_STRINGS(builtin_args), .help = "More options of `envgate worker`."},
};
_Static_assert(sizeof settings / sizeof *settings == SETTINGS_COUNT, "SETTINGS_COUNT is wrong");

bool setting_in(const struct setting *s, enum setting_scope scope, const char *provider)
{
  return s->scope == scope && str_eq(str_c(s->provider), str_c(provider));
}

const struct setting *setting_find(enum setting_scope scope, const char *provider, struct str key)
{
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (setting_in(&settings[i], scope, provider) && str_eq(str_c(settings[i].key), key))
      return &settings[i];
  return NULL;
}
