// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_engine.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { API_MINOR = 41, FIRST_PORT = 8000, SECOND_PORT = 7860 };

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

static bool add_labels(cJSON *body, const struct docker_spec *s)
{
  cJSON *labels = cJSON_AddObjectToObject(body, "Labels");
  bool ok = labels != NULL;
  for (size_t i = 0; ok && i < s->env->labels.n; i++)
    ok = cJSON_AddStringToObject(labels, s->env->labels.at[i].name, s->env->labels.at[i].value);
  if (!s->instance)
    return ok;
  // The gateway's own come last: should one be configured, the Engine takes the last.
  return ok && cJSON_AddStringToObject(labels, "envgate.instance", s->instance) &&
         cJSON_AddStringToObject(labels, "envgate.environment", s->env->name) && cJSON_AddStringToObject(labels, "envgate.worker", s->worker_id) &&
         cJSON_AddStringToObject(labels, "envgate.config", s->config);
}

static void port_name(uint16_t port, char name[16])
{
  snprintf(name, 16, "%u/tcp", (unsigned)port);
}

static bool add_exposed_ports(cJSON *body, const struct docker_spec *s)
{
  char name[16];
  if (!s->n_ports)
    return true;
  cJSON *ports = cJSON_AddObjectToObject(body, "ExposedPorts");
  bool ok = ports != NULL;
  for (int i = 0; ok && i < s->n_ports; i++) {
    port_name(s->ports[i], name);
    ok = cJSON_AddObjectToObject(ports, name);
  }
  return ok;
}

static bool add_published_port(cJSON *bindings, uint16_t port)
{
  char name[16];
  port_name(port, name);
  cJSON *array = cJSON_AddArrayToObject(bindings, name);
  cJSON *binding = cJSON_CreateObject();
  if (!array || !cJSON_AddItemToArray(array, binding)) {
    cJSON_Delete(binding);
    return false;
  }
  // An empty port is any that is free.
  return cJSON_AddStringToObject(binding, "HostIp", "127.0.0.1") && cJSON_AddStringToObject(binding, "HostPort", "");
}

static bool add_published_ports(cJSON *host, const struct docker_spec *s)
{
  if (!s->env->publish)
    return true;
  cJSON *bindings = cJSON_AddObjectToObject(host, "PortBindings");
  bool ok = bindings != NULL;
  for (int i = 0; ok && i < s->n_ports; i++)
    ok = add_published_port(bindings, s->ports[i]);
  return ok;
}

// "SOURCE:TARGET" or "SOURCE:TARGET:ro". A source that is no path is a volume's name.
static bool add_mount(cJSON *mounts, const char *text)
{
  const char *colon = strchr(text, ':'), *end = colon ? strchr(colon + 1, ':') : NULL;
  cJSON *mount = cJSON_CreateObject();
  if (!colon || !cJSON_AddItemToArray(mounts, mount)) {
    cJSON_Delete(mount);
    return false;
  }
  char *source = strndup(text, (size_t)(colon - text)), *target = end ? strndup(colon + 1, (size_t)(end - colon - 1)) : strdup(colon + 1);
  bool ok = source && target && cJSON_AddStringToObject(mount, "Type", source[0] == '/' ? "bind" : "volume") &&
            cJSON_AddStringToObject(mount, "Source", source) && cJSON_AddStringToObject(mount, "Target", target) &&
            cJSON_AddBoolToObject(mount, "ReadOnly", end != NULL);
  free(source);
  free(target);
  return ok;
}

static bool add_mounts(cJSON *host, const struct env_config *env)
{
  if (!env->docker_mounts.n)
    return true;
  cJSON *mounts = cJSON_AddArrayToObject(host, "Mounts");
  bool ok = mounts != NULL;
  for (size_t i = 0; ok && i < env->docker_mounts.n; i++)
    ok = add_mount(mounts, env->docker_mounts.at[i]);
  return ok;
}

static bool add_read_only(cJSON *host, const struct env_config *env)
{
  return !env->read_only || (cJSON_AddTrueToObject(host, "ReadonlyRootfs") &&
                             cJSON_AddStringToObject(cJSON_AddObjectToObject(host, "Tmpfs"), "/tmp", "rw,exec,nosuid,nodev,mode=1777"));
}

static bool add_capabilities(cJSON *host, const struct env_config *env)
{
  bool ok = add_item(cJSON_AddArrayToObject(host, "CapDrop"), "ALL");
  cJSON *add = ok && env->cap_add.n ? cJSON_AddArrayToObject(host, "CapAdd") : NULL;
  for (size_t i = 0; ok && i < env->cap_add.n; i++)
    ok = add_item(add, env->cap_add.at[i]);
  return ok && add_item(cJSON_AddArrayToObject(host, "SecurityOpt"), "no-new-privileges");
}

// What a worker writes to its output is kept by the Engine for a while, and must not fill its disk.
static bool add_log_config(cJSON *host)
{
  cJSON *log = cJSON_AddObjectToObject(host, "LogConfig");
  cJSON *options = cJSON_AddStringToObject(log, "Type", "local") ? cJSON_AddObjectToObject(log, "Config") : NULL;
  return cJSON_AddStringToObject(options, "max-size", "10m") && cJSON_AddStringToObject(options, "max-file", "2");
}

static bool add_host_config(cJSON *body, const struct docker_spec *s)
{
  const struct env_config *env = s->env;
  cJSON *host = cJSON_AddObjectToObject(body, "HostConfig");
  return host && cJSON_AddBoolToObject(host, "Init", env->init) && cJSON_AddFalseToObject(host, "AutoRemove") &&
         cJSON_AddFalseToObject(host, "PublishAllPorts") && add_limit(host, "Memory", env->memory_bytes) &&
         add_limit(host, "NanoCpus", (int64_t)(env->cpus * 1e9 + 0.5)) && add_limit(host, "PidsLimit", env->pids_limit) &&
         (!env->network || cJSON_AddStringToObject(host, "NetworkMode", env->network)) && add_published_ports(host, s) && add_mounts(host, env) &&
         add_read_only(host, env) && add_capabilities(host, env) && add_log_config(host);
}

char *docker_create_body(const struct docker_spec *s)
{
  cJSON *body = cJSON_CreateObject();
  bool ok = cJSON_AddStringToObject(body, "Image", s->env->image) && add_command(body, s->env) && add_env(body, s->env_vars) && add_labels(body, s) &&
            add_exposed_ports(body, s) && add_host_config(body, s);
  char *text = ok ? cJSON_PrintUnformatted(body) : NULL;
  cJSON_Delete(body);
  return text;
}

bool docker_config_hash(const struct env_config *env, const struct pairs *env_vars, const char *key, char hash[DOCKER_HASH_MAX])
{
  const uint16_t port = (uint16_t)env->port;
  char *body = docker_create_body(&(struct docker_spec){.env = env, .env_vars = env_vars, .ports = &port, .n_ports = port ? 1 : 0});
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  bool ok = body && HMAC(EVP_sha256(), key, (int)strlen(key), (const unsigned char *)body, strlen(body), mac, &n) && n >= DOCKER_HASH_MAX / 2;
  for (size_t i = 0; ok && i < DOCKER_HASH_MAX / 2; i++)
    snprintf(hash + 2 * i, 3, "%02x", mac[i]);
  free(body);
  return ok;
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

bool docker_image_path(const char *prefix, const char *image, struct buf *path)
{
  return buf_printf(path, "%s/images/", prefix) && add_escaped(path, image) && buf_str(path, STR("/json")) && buf_char(path, '\0');
}

// The instance is hexadecimal digits.
bool docker_list_path(const char *prefix, const char *instance, struct buf *path)
{
  return buf_printf(path, "%s/containers/json?all=1&filters=", prefix) && add_escaped(path, "{\"label\":[\"envgate.instance=") &&
         add_escaped(path, instance) && add_escaped(path, "\"]}") && buf_char(path, '\0');
}

bool docker_events_path(const char *prefix, const char *instance, const char *since, struct buf *path)
{
  static const char filters[] = "{\"type\":[\"container\"],\"event\":[\"die\",\"oom\",\"destroy\"],\"label\":[\"envgate.instance=";
  return buf_printf(path, "%s/events?since=%s&filters=", prefix, since) && add_escaped(path, filters) && add_escaped(path, instance) &&
         add_escaped(path, "\"]}") && buf_char(path, '\0');
}

void docker_time(int64_t nanoseconds, char time[DOCKER_TIME_MAX])
{
  if (nanoseconds < 0)
    nanoseconds = 0;
  snprintf(time, DOCKER_TIME_MAX, "%" PRId64 ".%09" PRId64, nanoseconds / 1000000000, nanoseconds % 1000000000);
}

// --- answers -------------------------------------------------------------------------------------------------------------------------------

// Whether an id may go into paths.
static bool is_id(const char *id)
{
  return id && id[0] && strlen(id) < DOCKER_REF_MAX && !id[strspn(id, "0123456789abcdef")];
}

bool docker_created_id(struct str body, char ref[DOCKER_REF_MAX])
{
  cJSON *reply = parse(body);
  const char *id = string_in(reply, "Id");
  bool ok = is_id(id);
  if (ok)
    memcpy(ref, id, strlen(id) + 1);
  cJSON_Delete(reply);
  return ok;
}

void docker_copy_line(char to[DOCKER_MESSAGE_MAX], const char *from)
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
    docker_copy_line(message, text);
  else
    snprintf(message, DOCKER_MESSAGE_MAX, "HTTP status %d", status);
  cJSON_Delete(reply);
}

// Which of the exposed ports is the worker's: OpenEnv's own, else that of Spaces, else the lowest. 0: none is exposed.
static uint16_t exposed_port(const cJSON *config)
{
  uint16_t best = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(config, "ExposedPorts"))
  {
    char *end = NULL;
    long port = item->string ? strtol(item->string, &end, 10) : 0;
    if (port <= 0 || port > UINT16_MAX || strcmp(end, "/tcp") != 0)
      continue;
    if (port == FIRST_PORT)
      return FIRST_PORT;
    if (port == SECOND_PORT || !best || (best != SECOND_PORT && port < best))
      best = (uint16_t)port;
  }
  return best;
}

static int choose_ports(int64_t port, const cJSON *config, uint16_t ports[DOCKER_PORTS_MAX])
{
  ports[0] = port ? (uint16_t)port : exposed_port(config);
  ports[1] = 0;
  if (ports[0])
    return 1;
  ports[0] = FIRST_PORT;
  ports[1] = SECOND_PORT;
  return 2;
}

int docker_ports(int64_t port, struct str image, uint16_t ports[DOCKER_PORTS_MAX])
{
  cJSON *reply = parse(image);
  int n = choose_ports(port, cJSON_GetObjectItemCaseSensitive(reply, "Config"), ports);
  cJSON_Delete(reply);
  return n;
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

// Where on 127.0.0.1 the worker's ports are published; no others are.
static void find_published(const cJSON *settings, struct docker_container *c)
{
  const cJSON *bindings;
  c->n_ports = 0;
  cJSON_ArrayForEach(bindings, cJSON_GetObjectItemCaseSensitive(settings, "Ports"))
  {
    const char *text = string_in(cJSON_GetArrayItem(bindings, 0), "HostPort");
    long port = text ? strtol(text, NULL, 10) : 0;
    if (port > 0 && port <= UINT16_MAX && c->n_ports < DOCKER_PORTS_MAX && set_address(c, "127.0.0.1"))
      c->ports[c->n_ports++] = (uint16_t)port;
  }
}

bool docker_container_parse(struct str body, const struct env_config *env, struct docker_container *c)
{
  *c = (struct docker_container){0};
  cJSON *reply = parse(body);
  const cJSON *state = cJSON_GetObjectItemCaseSensitive(reply, "State");
  const cJSON *settings = cJSON_GetObjectItemCaseSensitive(reply, "NetworkSettings");
  bool ok = cJSON_IsObject(state);
  c->running = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(state, "Running"));
  c->out_of_memory = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(state, "OOMKilled"));
  c->exit_code = int_in(state, "ExitCode");
  c->pid = int_in(state, "Pid");
  const char *error = string_in(state, "Error");
  docker_copy_line(c->error, error ? error : "");
  const cJSON *config = cJSON_GetObjectItemCaseSensitive(reply, "Config"); // has what the image exposes, too
  c->n_ports = choose_ports(env->port, config, c->ports);
  if (env->network && !strcmp(env->network, "host"))
    set_address(c, "127.0.0.1");
  else if (env->publish)
    find_published(settings, c);
  else
    find_address(settings, c);
  cJSON_Delete(reply);
  return ok;
}

bool docker_list_parse(struct str body, void (*each)(void *ctx, const struct docker_listed *c), void *ctx)
{
  cJSON *list = parse(body);
  const cJSON *item;
  bool ok = cJSON_IsArray(list); // of anything else no member has an Id that is one
  cJSON_ArrayForEach(item, list)
  {
    const cJSON *labels = cJSON_GetObjectItemCaseSensitive(item, "Labels");
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(item, "Names"), 0));
    const char *state = string_in(item, "State"), *image = string_in(item, "Image");
    const struct docker_listed c = {
        .id = string_in(item, "Id"),
        .name = !name            ? ""
                : name[0] == '/' ? name + 1
                                 : name,
        .image = image ? image : "",
        .environment = string_in(labels, "envgate.environment"),
        .worker = string_in(labels, "envgate.worker"),
        .config = string_in(labels, "envgate.config"),
        .running = state && !strcmp(state, "running"),
    };
    if (is_id(c.id))
      each(ctx, &c);
  }
  cJSON_Delete(list);
  return ok;
}

bool docker_event_parse(struct str line, struct docker_event *e)
{
  static const struct {
    const char *action;
    enum docker_event_kind kind;
  } kinds[] = {{"die", DOCKER_DIE}, {"oom", DOCKER_OOM}, {"destroy", DOCKER_DESTROY}};
  *e = (struct docker_event){0};
  cJSON *event = parse(line);
  const cJSON *actor = cJSON_GetObjectItemCaseSensitive(event, "Actor");
  const char *action = string_in(event, "Action"), *id = string_in(actor, "ID");
  for (size_t i = 0; action && i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(action, kinds[i].action))
      e->kind = kinds[i].kind;
  bool ok = is_id(id);
  if (ok)
    memcpy(e->id, id, strlen(id) + 1);
  const char *code = string_in(cJSON_GetObjectItemCaseSensitive(actor, "Attributes"), "exitCode");
  e->exit_code = code ? strtoll(code, NULL, 10) : 0;
  // As a double it is right to some 200 ns; what is told twice does no harm.
  const cJSON *time = cJSON_GetObjectItemCaseSensitive(event, "timeNano");
  if (cJSON_IsNumber(time) && time->valuedouble > 0 && time->valuedouble < 9e18)
    docker_time((int64_t)time->valuedouble - 1000, e->time);
  cJSON_Delete(event);
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

bool docker_stream_next(struct docker_stream *s, struct str *piece, struct str *output)
{
  *output = (struct str){piece->p, 0};
  if (s->n_head < sizeof s->head && !feed_head(s, piece))
    return false;
  if (s->n_head < sizeof s->head)
    return true;
  output->p = piece->p;
  output->n = piece->n < s->left ? piece->n : s->left;
  *piece = str_skip(*piece, output->n);
  s->left -= (uint32_t)output->n;
  if (!s->left)
    s->n_head = 0;
  return true;
}

bool docker_lines_next(struct docker_lines *l, struct str *piece, struct str *line)
{
  l->line.max = DOCKER_LINE_MAX;
  if (l->line.n && l->line.p[l->line.n - 1] == '\n') // it was the last call's
    buf_consume(&l->line, l->line.n);
  const char *end = piece->n ? memchr(piece->p, '\n', piece->n) : NULL;
  size_t n = end ? (size_t)(end - piece->p) + 1 : piece->n;
  if (n && !buf_add(&l->line, piece->p, n))
    return false;
  *piece = str_skip(*piece, n);
  *line = (struct str){l->line.p, end ? l->line.n - 1 : l->line.n};
  return end != NULL;
}

void docker_lines_free(struct docker_lines *l)
{
  buf_free(&l->line);
}
