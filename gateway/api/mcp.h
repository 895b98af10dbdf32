// SPDX-License-Identifier: Apache-2.0
// ListTools and CallTool: MCP's tools in a session, as JSON-RPC to its worker.
#ifndef ENVGATE_API_MCP_H
#define ENVGATE_API_MCP_H

#include "api/episodes.h"

// For rpc_handler.
int mcp_route(const struct call *c);
void list_tools_start(struct call *c);
void call_tool_start(struct call *c);
void mcp_cancel(struct call *c, struct err *e);

// Checks a CallToolRequest and fills what a waiter asks of the session, in the scope's arena. The session's name is not looked at. False: `e`.
bool call_tool_read(const struct payload_scope *scope, const Envgate__V1__CallToolRequest *q, struct waiter *w, struct err *e);

// A CallToolResponse with all that it points to.
struct call_tool_reply {
  Envgate__V1__CallToolResponse response;
  Envgate__V1__Payload result;
};

// Fills it from the worker's JSON-RPC response (an outcome's `raw`), into which it points. False: `e`, which may be the worker's own error.
bool call_tool_reply_fill(struct call_tool_reply *reply, const struct payload_scope *scope, Envgate__V1__PayloadFormat format, const char *session,
                          struct str response, struct err *e);

#endif
