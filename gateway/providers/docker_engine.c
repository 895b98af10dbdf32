// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_engine.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { API_MINOR = 41, PULL_LINE_MAX = 64 << 10 };

const char *docker_socket_path(const char *docker_host)
{
  static const char scheme[] = "unix://";
  const char *path = docker_host + sizeof scheme - 1;
  return !strncmp(docker_host, scheme, sizeof scheme - 1) && path[0] == '/' ? path : NULL;
}

static cJSON *parse(struct str body)
{
  return body.n ? cJSON_ParseWithLength(body.p, body.n) : NULL;
}

// A member that is a string, or NULL.
static const char *string_in(const cJSON *object, const char *name)
{
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}

// A member that is a whole number; 0 where there is none.
static int64_t int_in(const cJSON *object, const char *name)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(item) && item->valuedouble > -1e15 && item->valuedouble < 1e15 ? (int64_t)item->valuedouble : 0;
}

// --- the version ---------------------------------------------------------------------------------------------------------------------------

// "1.41" → 41. False for anything but 1.x.
static bool minor_version(const char *text, long *minor)
{
  if (!text || strncmp(text, "1.", 2) != 0)
    return false;
  char *end;
  *minor = strtol(text + 2, &end, 10);
  return end != text + 2 && !*end && *minor >= 0 && *minor < 1000000;
}

bool docker_api_version(struct str body, char prefix[DOCKER_VERSION_MAX])
{
  cJSON *version = parse(body);
  long newest, oldest, minor = API_MINOR;
  bool ok = minor_version(string_in(version, "ApiVersion"), &newest);
  if (ok && newest < minor)
    minor = newest;
  if (ok && minor_version(string_in(version, "MinAPIVersion"), &oldest) && oldest > minor)
    minor = oldest;
  cJSON_Delete(version);
  if (ok)
    snprintf(prefix, DOCKER_VERSION_MAX, "/v1.%ld", minor);
  return ok;
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

// A limit, where there is one. Not as cJSON's number, which is a double.
static bool add_limit(cJSON *to, const char *name, int64_t value)
{
  char text[24];
  snprintf(text, sizeof text, "%" PRId64, value);
  return !value || cJSON_AddRawToObject(to, name, text);
}

static bool add_item(cJSON *array, const char *text)
{
  return cJSON_AddItemToArray(array, cJSON_CreateString(text));
}

static bool add_command(cJSON *body, const struct env_config *env)
{
  if (!env->docker_command.n)
    return true;
  cJSON *array = cJSON_AddArrayToObject(body, "Cmd");
  bool ok = array != NULL;
  for (size_t i = 0; ok && i < env->docker_command.n; i++)
    ok = add_item(array, env->docker_command.at[i]);
  return ok;
}

static bool add_env(cJSON *body, const struct pairs *env_vars)
{
  cJSON *array = cJSON_AddArrayToObject(body, "Env");
  bool ok = array != NULL;
  for (size_t i = 0; ok && i < env_vars->n; i++) {
    struct buf line = {0};
    ok = buf_printf(&line, "%s=%s", env_vars->at[i].name, env_vars->at[i].value) && buf_char(&line, '\0') && add_item(array, line.p);
    buf_free(&line);
  }
  return ok;
}

static bool add_labels(cJSON *body, const struct env_config *env, const char *worker_id, const char *instance)
{
  cJSON *labels = cJSON_AddObjectToObject(body, "Labels");
  bool ok = labels != NULL;
  for (size_t i = 0; ok && i < env->labels.n; i++)
    ok = cJSON_AddStringToObject(labels, env->labels.at[i].name, env->labels.at[i].value);
  // The gateway's own come last: should one be configured, the Engine takes the last.
  return ok && cJSON_AddStringToObject(labels, "envgate.instance", instance) && cJSON_AddStringToObject(labels, "envgate.environment", env->name) &&
         cJSON_AddStringToObject(labels, "envgate.worker", worker_id);
}

static void port_name(const struct env_config *env, char name[16])
{
  snprintf(name, 16, "%u/tcp", (unsigned)(uint16_t)env->port);
}

static bool add_exposed_port(cJSON *body, const struct env_config *env)
{
  char name[16];
  port_name(env, name);
  return cJSON_AddObjectToObject(cJSON_AddObjectToObject(body, "ExposedPorts"), name);
}

static bool add_published_port(cJSON *host, const struct env_config *env)
{
  if (!env->publish)
    return true;
  char name[16];
  port_name(env, name);
  cJSON *array = cJSON_AddArrayToObject(cJSON_AddObjectToObject(host, "PortBindings"), name);
  cJSON *binding = cJSON_CreateObject();
  if (!array || !cJSON_AddItemToArray(array, binding)) {
    cJSON_Delete(binding);
    return false;
  }
  // An empty port is any that is free.
  return cJSON_AddStringToObject(binding, "HostIp", "127.0.0.1") && cJSON_AddStringToObject(binding, "HostPort", "");
}

static bool add_host_config(cJSON *body, const struct env_config *env)
{
  cJSON *host = cJSON_AddObjectToObject(body, "HostConfig");
  return host && cJSON_AddBoolToObject(host, "Init", env->init) && cJSON_AddFalseToObject(host, "AutoRemove") &&
         cJSON_AddFalseToObject(host, "PublishAllPorts") && add_limit(host, "Memory", env->memory_bytes) &&
         add_limit(host, "NanoCpus", (int64_t)(env->cpus * 1e9 + 0.5)) && add_limit(host, "PidsLimit", env->pids_limit) &&
         (!env->network || cJSON_AddStringToObject(host, "NetworkMode", env->network)) && add_published_port(host, env) &&
         add_item(cJSON_AddArrayToObject(host, "SecurityOpt"), "no-new-privileges") && add_item(cJSON_AddArrayToObject(host, "CapDrop"), "ALL");
}

char *docker_create_body(const struct env_config *env, const struct pairs *env_vars, const char *worker_id, const char *instance)
{
  cJSON *body = cJSON_CreateObject();
  bool ok = cJSON_AddStringToObject(body, "Image", env->image) && add_command(body, env) && add_env(body, env_vars) &&
            add_labels(body, env, worker_id, instance) && add_exposed_port(body, env) && add_host_config(body, env);
  char *text = ok ? cJSON_PrintUnformatted(body) : NULL;
  cJSON_Delete(body);
  return text;
}

static bool add_escaped(struct buf *path, const char *text)
{
  bool ok = true;
  for (; ok && *text; text++) {
    bool plain = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || (*text >= '0' && *text <= '9') || strchr("-._~/", *text);
    ok = plain ? buf_char(path, *text) : buf_printf(path, "%%%02X", (unsigned)(unsigned char)*text);
  }
  return ok;
}

bool docker_pull_path(const char *prefix, const char *image, struct buf *path)
{
  const char *slash = strrchr(image, '/'); // a colon before it belongs to the registry's port
  bool has_tag = strpbrk(slash ? slash : image, ":@") || strchr(image, '@');
  return buf_printf(path, "%s/images/create?fromImage=", prefix) && add_escaped(path, image) && (has_tag || buf_str(path, STR("&tag=latest"))) &&
         buf_char(path, '\0');
}

// --- answers -------------------------------------------------------------------------------------------------------------------------------

bool docker_created_id(struct str body, char ref[DOCKER_REF_MAX])
{
  cJSON *reply = parse(body);
  const char *id = string_in(reply, "Id");
  // It goes into paths.
  bool ok = id && id[0] && strlen(id) < DOCKER_REF_MAX && !id[strspn(id, "0123456789abcdef")];
  if (ok)
    memcpy(ref, id, strlen(id) + 1);
  cJSON_Delete(reply);
  return ok;
}

// As clean UTF-8 on one line, cut at a character's start: it quotes what the image says, as its command.
static void copy_line(char to[DOCKER_MESSAGE_MAX], const char *from)
{
  size_t n = 0, left = strlen(from);
  while (left) {
    size_t len = utf8_length(from, left);
    if (n + (len ? len : 1) >= DOCKER_MESSAGE_MAX)
      break;
    if (!len)
      to[n++] = '?';
    else if ((unsigned char)*from < ' ' || *from == 0x7f)
      to[n++] = ' ';
    else
      for (size_t i = 0; i < len; i++)
        to[n++] = from[i];
    from += len ? len : 1;
    left -= len ? len : 1;
  }
  to[n] = '\0';
}

void docker_message(int status, struct str body, char message[DOCKER_MESSAGE_MAX])
{
  cJSON *reply = parse(body);
  const char *text = string_in(reply, "message");
  if (text && *text)
    copy_line(message, text);
  else
    snprintf(message, DOCKER_MESSAGE_MAX, "HTTP status %d", status);
  cJSON_Delete(reply);
}

bool docker_wait_code(struct str body, int64_t *code)
{
  cJSON *reply = parse(body);
  bool ok = cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(reply, "StatusCode"));
  *code = int_in(reply, "StatusCode");
  cJSON_Delete(reply);
  return ok;
}

static bool set_address(struct docker_container *c, const char *ip)
{
  unsigned char bits[sizeof(struct in6_addr)];
  bool v4 = ip && inet_pton(AF_INET, ip, bits) == 1, v6 = ip && inet_pton(AF_INET6, ip, bits) == 1;
  if (v4 || v6)
    snprintf(c->address, sizeof c->address, v4 ? "%s" : "[%s]", ip);
  return v4 || v6;
}

// A container is created with one network, so the first address is it.
static void find_address(const cJSON *settings, struct docker_container *c)
{
  const cJSON *network;
  cJSON_ArrayForEach(network,
                     cJSON_GetObjectItemCaseSensitive(settings, "Networks")) if (set_address(c, string_in(network, "IPAddress")) ||
                                                                                 set_address(c, string_in(network, "GlobalIPv6Address"))) return;
}

static void find_published(const cJSON *settings, const struct env_config *env, struct docker_container *c)
{
  char name[16];
  port_name(env, name);
  const cJSON *ports = cJSON_GetObjectItemCaseSensitive(settings, "Ports");
  const char *text = string_in(cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(ports, name), 0), "HostPort");
  long port = text ? strtol(text, NULL, 10) : 0;
  if (port > 0 && port <= UINT16_MAX && set_address(c, "127.0.0.1"))
    c->port = (uint16_t)port;
}

bool docker_container_parse(struct str body, const struct env_config *env, struct docker_container *c)
{
  *c = (struct docker_container){.port = (uint16_t)env->port};
  cJSON *reply = parse(body);
  const cJSON *state = cJSON_GetObjectItemCaseSensitive(reply, "State");
  const cJSON *settings = cJSON_GetObjectItemCaseSensitive(reply, "NetworkSettings");
  bool ok = cJSON_IsObject(state);
  c->running = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(state, "Running"));
  c->out_of_memory = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(state, "OOMKilled"));
  c->exit_code = int_in(state, "ExitCode");
  const char *error = string_in(state, "Error");
  copy_line(c->error, error ? error : "");
  if (env->network && !strcmp(env->network, "host"))
    set_address(c, "127.0.0.1");
  else if (env->publish)
    find_published(settings, env, c);
  else
    find_address(settings, c);
  cJSON_Delete(reply);
  return ok;
}

void docker_explain_exit(const struct docker_container *c, const struct env_config *env, struct err *e)
{
  enum { SIGNALLED = 128, LAST_SIGNAL = 64 };
  char signal[64] = "", memory[96] = "";
  // A container whose main process died by a signal shows this code; but a program can also choose it.
  if (c->exit_code > SIGNALLED && c->exit_code <= SIGNALLED + LAST_SIGNAL)
    snprintf(signal, sizeof signal, " (128 + signal %d, %s)", (int)c->exit_code - SIGNALLED, strsignal((int)c->exit_code - SIGNALLED));
  // The Engine at times misses that the kernel's OOM killer did it.
  bool perhaps = env->memory_bytes && c->exit_code == SIGNALLED + SIGKILL;
  if (c->out_of_memory || perhaps)
    snprintf(memory, sizeof memory, ", %s of memory (memory_bytes is %" PRId64 ")", c->out_of_memory ? "out" : "perhaps out", env->memory_bytes);
  err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker exited with code %" PRId64 "%s%s%s%s", c->exit_code, signal, memory,
          c->error[0] ? ": " : "", c->error);
}

// --- streams -------------------------------------------------------------------------------------------------------------------------------

// Takes bytes of the head. False when it is none.
static bool feed_head(struct docker_stream *s, struct str *piece)
{
  enum { STDERR_STREAM = 2 };
  size_t n = sizeof s->head - s->n_head;
  if (n > piece->n)
    n = piece->n;
  memcpy(s->head + s->n_head, piece->p, n);
  s->n_head += n;
  *piece = str_skip(*piece, n);
  s->left = (uint32_t)s->head[4] << 24 | (uint32_t)s->head[5] << 16 | (uint32_t)s->head[6] << 8 | s->head[7];
  return s->n_head < sizeof s->head || (s->head[0] <= STDERR_STREAM && !s->head[1] && !s->head[2] && !s->head[3]);
}

bool docker_stream_feed(struct docker_stream *s, struct str piece, struct log_tail *log)
{
  while (piece.n) {
    if (s->n_head < sizeof s->head && !feed_head(s, &piece))
      return false;
    if (s->n_head < sizeof s->head)
      return true;
    size_t n = piece.n < s->left ? piece.n : s->left;
    log_tail_add(log, (struct str){piece.p, n});
    piece = str_skip(piece, n);
    s->left -= (uint32_t)n;
    if (!s->left)
      s->n_head = 0;
  }
  return true;
}

static void read_pull_line(struct docker_pull *p)
{
  cJSON *line = parse(buf_view(&p->line));
  const char *error = string_in(line, "error");
  if (!error)
    error = string_in(line, "message"); // refused before it began
  if (error)
    copy_line(p->error, error);
  cJSON_Delete(line);
  buf_consume(&p->line, p->line.n);
}

void docker_pull_init(struct docker_pull *p)
{
  *p = (struct docker_pull){.line = {.max = PULL_LINE_MAX}};
}

bool docker_pull_feed(struct docker_pull *p, struct str piece)
{
  const char *end;
  while (piece.n && (end = memchr(piece.p, '\n', piece.n))) {
    size_t n = (size_t)(end - piece.p);
    if (!buf_add(&p->line, piece.p, n))
      return false;
    read_pull_line(p);
    piece = str_skip(piece, n + 1);
  }
  return buf_add(&p->line, piece.p, piece.n);
}

void docker_pull_end(struct docker_pull *p)
{
  read_pull_line(p);
  buf_free(&p->line);
}
