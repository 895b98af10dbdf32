// SPDX-License-Identifier: Apache-2.0
// The scripted session (tests/clients/README.md) by @connectrpc/connect: connect.js ADDRESS TRANSPORT, which is web (the browser's, by fetch), node (HTTP/1.1)
// or grpc (HTTP/2, gRPC's own protocol).
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport as node, createGrpcTransport as grpc } from "@connectrpc/connect-node";
import { createConnectTransport as web } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "@envgate/client/google/rpc/error_details";
import { SessionService } from "@envgate/client/v1/session_service";
import { runSession } from "./script.js";

const baseUrl = `http://${process.argv[2]}`;
const transports = {
  web: () => web({ baseUrl, useBinaryFormat: true }),
  node: () => node({ baseUrl, httpVersion: "1.1", useBinaryFormat: true }),
  grpc: () => grpc({ baseUrl }),
};
await runSession(createClient(SessionService, transports[process.argv[3]]()), {
  code: (error) => ConnectError.from(error).code,
  info: (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0],
  bad: (error) => ConnectError.from(error).findDetails(BadRequestSchema)[0],
});
