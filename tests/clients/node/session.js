// SPDX-License-Identifier: Apache-2.0
// The scripted session (tests/clients/README.md) by @grpc/grpc-js.
import { createGrpcClient, findDetails } from "@envgate/client/grpc";
import { SessionService } from "@envgate/client/v1/session_service";
import { BadRequestSchema, ErrorInfoSchema } from "@envgate/client/google/rpc/error_details";
import { runSession } from "./script.js";

const sessions = createGrpcClient(SessionService, process.argv[2]);
await runSession(sessions, {
  code: (error) => error.code,
  info: (error) => findDetails(error, ErrorInfoSchema)[0],
  bad: (error) => findDetails(error, BadRequestSchema)[0],
});
sessions.close();
