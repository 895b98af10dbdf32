// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_pull.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// No layer is larger: a registry's numbers are added up.
#define LAYER_BYTES_MAX (UINT64_C(1) << 46)

// What a layer is at, by the Engine's words.
static const struct stage {
  const char *status;
  bool downloading, downloaded, done;
} stages[] = {
    {.status = "Pulling fs layer"},
    {.status = "Waiting"},
    {.status = "Downloading", .downloading = true},
    {.status = "Verifying Checksum", .downloaded = true},
    {.status = "Download complete", .downloaded = true},
    {.status = "Extracting", .downloaded = true},
    {.status = "Pull complete", .downloaded = true, .done = true},
    {.status = "Already exists", .downloaded = true, .done = true},
};

static const struct stage *find_stage(const char *status)
{
  for (size_t i = 0; status && i < sizeof stages / sizeof *stages; i++)
    if (!strcmp(stages[i].status, status))
      return &stages[i];
  return NULL;
}

// The layer of that id, a new one if need be. NULL: there are too many, or out of memory; then it is not counted.
static struct docker_layer *find_layer(struct docker_pull *p, const char *id)
{
  char key[sizeof p->layers->id];
  snprintf(key, sizeof key, "%s", id);
  for (uint32_t i = 0; i < p->n_layers; i++)
    if (!strcmp(p->layers[i].id, key))
      return &p->layers[i];
  if (!p->layers)
    p->layers = calloc(DOCKER_LAYERS_MAX, sizeof *p->layers);
  if (!p->layers || p->n_layers == DOCKER_LAYERS_MAX)
    return NULL;
  struct docker_layer *layer = &p->layers[p->n_layers++];
  memcpy(layer->id, key, sizeof key);
  return layer;
}

static uint64_t bytes_in(const cJSON *detail, const char *name)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(detail, name);
  if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
    return 0;
  return item->valuedouble < (double)LAYER_BYTES_MAX ? (uint64_t)item->valuedouble : LAYER_BYTES_MAX;
}

static void read_layer(struct docker_pull *p, const cJSON *line)
{
  const struct stage *stage = find_stage(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "status")));
  const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "id"));
  struct docker_layer *layer = stage && id ? find_layer(p, id) : NULL;
  if (!layer)
    return;
  const cJSON *detail = cJSON_GetObjectItemCaseSensitive(line, "progressDetail");
  uint64_t total = stage->downloading ? bytes_in(detail, "total") : 0, current = stage->downloading ? bytes_in(detail, "current") : 0;
  if (total > layer->bytes) {
    p->bytes += total - layer->bytes;
    layer->bytes = total;
  }
  if (stage->downloaded || current > layer->bytes)
    current = layer->bytes;
  if (current > layer->bytes_done) { // a download that begins anew is not told until it is further than it was
    p->bytes_done += current - layer->bytes_done;
    layer->bytes_done = current;
  }
  p->layers_done += stage->done && !layer->done;
  layer->done |= stage->done;
}

static void read_line(struct docker_pull *p, struct str text)
{
  cJSON *line = text.n ? cJSON_ParseWithLength(text.p, text.n) : NULL;
  const char *error = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "error"));
  if (!error)
    error = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "message")); // refused before it began
  if (error)
    docker_copy_line(p->error, error);
  read_layer(p, line);
  cJSON_Delete(line);
}

bool docker_pull_feed(struct docker_pull *p, struct str piece)
{
  struct str line;
  while (docker_lines_next(&p->lines, &piece, &line))
    read_line(p, line);
  return !piece.n;
}

void docker_pull_end(struct docker_pull *p)
{
  read_line(p, buf_view(&p->lines.line));
  docker_lines_free(&p->lines);
  free(p->layers);
  p->layers = NULL;
}
