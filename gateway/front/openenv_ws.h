// SPDX-License-Identifier: Apache-2.0
// OpenEnv's own WebSocket as callers speak it: /v1/environments/{environment}/ws, where a socket is a session, and /v1/sessions/{session}/ws, at a session that is
// there. A client of OpenEnv's sees what it would see of a worker: the worker's own replies and errors, byte for byte, and its close codes.
//
// Requests go through the session's queue like all others (session/work.c), one at a time for each socket; what is sent ahead waits here, and beyond some requests in
// the socket.
#ifndef ENVGATE_FRONT_OPENENV_WS_H
#define ENVGATE_FRONT_OPENENV_WS_H

#include "front/websocket.h"

// Rows of http_sockets.
void openenv_ws_new(struct websocket_request *u);
void openenv_ws_attach(struct websocket_request *u);
// The same for MCP alone, /mcp in place of /ws: messages are JSON-RPC, and so are errors. At a session that is there it is an agent's, too.
void openenv_mcp_new(struct websocket_request *u);
void openenv_mcp_attach(struct websocket_request *u);

#endif
