// SPDX-License-Identifier: Apache-2.0
// OpenEnv's HTTP API as its servers have it, below /v1/environments/{environment} and /v1/sessions/{id}: /health, /schema, /metadata, /mcp, and below an environment
// the stateful /reset, /step and /state, whose session is in a cookie.
//
// A request becomes one call after another of the API's own methods, so scopes, quotas, metrics and the log are theirs. What a worker says of a step, a state or a tool
// goes to the caller as it is.
#ifndef ENVGATE_FRONT_HTTP_OPENENV_H
#define ENVGATE_FRONT_HTTP_OPENENV_H

struct http_request;

// For http_route.answer.
void http_openenv_health(struct http_request *q);
void http_openenv_schema(struct http_request *q);
void http_openenv_metadata(struct http_request *q);
void http_openenv_mcp(struct http_request *q);
void http_openenv_reset(struct http_request *q);
void http_openenv_step(struct http_request *q);
void http_openenv_state(struct http_request *q);

// The request ends, whether it has been answered or not, and no call of it runs. Frees what it has here.
void http_openenv_close(struct http_request *q);

#endif
