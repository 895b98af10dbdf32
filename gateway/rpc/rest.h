// SPDX-License-Identifier: Apache-2.0
// google.api.http: finds the method for a verb and path, makes the request of path, query and body, and writes the reply
// (https://github.com/googleapis/googleapis/blob/master/google/api/http.proto).
//
// One rule is our own, from OpenEnv, whose reset takes any argument: when the input message has a field `options` of type envgate.v1.Payload,
// unknown members of the body become members of it.
#ifndef ENVGATE_RPC_REST_H
#define ENVGATE_RPC_REST_H

#include "rpc/rpc.h"
#include "transcode/transcode.h"

enum { REST_MAX_VARS = 8 };

struct rest_match {
  const struct rpc_api *api;
  const struct rpc_method *method;
  int vars;
  struct {
    struct str field; // dotted path in the request message
    struct str text;  // still percent-encoded
    bool whole;       // a single segment: %2F is a slash, too; else it stays "%2F", as http.proto has it
  } var[REST_MAX_VARS];
};

// Finds the method. `path` is as in the request line, without the query; the match points into it. When no verb of the path fits, *other_verb is
// set, and `allow` (may be NULL) gets the verbs that do: "GET, DELETE". HEAD finds what GET finds.
bool rest_find(const struct rpc_api *api, struct str verb, struct str path, struct rest_match *m, bool *other_verb, struct buf *allow);

// Whether a path fits a template ("/v1/{name=sessions/*}"), whose variables go into `m`; m->method is left alone.
bool rest_match_template(struct str template, struct str path, struct rest_match *m);

// Builds the request in the arena, of the body (JSON, may be ""), the query and the path. NULL: INVALID_ARGUMENT with the field. A field given in two
// ways, an unknown query parameter, and a body where the method takes none are errors.
ProtobufCMessage *rest_request(const struct rest_match *m, struct str query, struct str body, int max_depth, struct arena *a, struct err *e);

// The reply's JSON, behind what `out` has: all of the message when there is no `method`, whose response_body may ask for a part. The bytes of its payloads are known to be valid JSON: they are not checked again, and large ones
// may be noted in `splices` (may be NULL) instead of copied.
bool rest_reply(const struct rpc_api *api, const struct rpc_method *method, const ProtobufCMessage *reply, struct splices *splices, struct buf *out,
                struct err *e);

#endif
