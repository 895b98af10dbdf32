// SPDX-License-Identifier: Apache-2.0
// What the page of browser.py runs, by its query: program is session (the scripted session of tests/clients/README.md, by the transport connect or grpc-web), trainer
// (the program of docs/clients/web.md) or stranger (a page that may not call); gateway is the gateway's URL. What it writes goes back to where it came from.
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "@envgate/client/google/rpc/error_details";
import { SessionService } from "@envgate/client/v1/session_service";
import { runSession } from "./script.js";
import { train } from "./web.js";

const query = new URLSearchParams(location.search);
const baseUrl = query.get("gateway");
const transport = query.get("transport") === "grpc-web" ? createGrpcWebTransport({ baseUrl }) : createConnectTransport({ baseUrl, useBinaryFormat: true });
const sessions = createClient(SessionService, transport);
let written = "";
console.log = (line) => (written += line + "\n");

const programs = {
  session: () =>
    runSession(sessions, {
      code: (error) => ConnectError.from(error).code,
      info: (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0],
      bad: (error) => ConnectError.from(error).findDetails(BadRequestSchema)[0],
    }),
  trainer: () => train(baseUrl, console.log),
  stranger: async () => {
    const error = await sessions.listSessions({}).catch((error) => error);
    console.log(error instanceof ConnectError ? "refused" : "let in");
  },
};

let ok = true;
try {
  await programs[query.get("program")]();
} catch (error) {
  ok = false;
  written += `${error.stack ?? error}\n`;
}
await fetch(ok ? "/done" : "/failed", { method: "POST", body: written });
