// SPDX-License-Identifier: Apache-2.0
// Interact by WebSocket, for callers without HTTP/2.
#ifndef ENVGATE_FRONT_INTERACT_WS_H
#define ENVGATE_FRONT_INTERACT_WS_H

#include "front/websocket.h"

// A row of http_sockets.
void interact_ws_open(struct websocket_request *u);

#endif
