// SPDX-License-Identifier: Apache-2.0
// Compiled, not run: the types that the stubs promise are there, and refuse what is wrong.
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createGrpcClient, findDetails } from "@envgate/client/grpc";
import { ErrorInfoSchema } from "@envgate/client/google/rpc/error_details";
import { PayloadFormat } from "@envgate/client/v1/payload";
import { SessionService, type Session, type StepResult } from "@envgate/client/v1/session_service";
import type { ServiceError } from "@grpc/grpc-js";

export async function overGrpc(error: ServiceError): Promise<string> {
  const sessions = createGrpcClient(SessionService, "127.0.0.1:8080");
  const session: Session = await sessions.createSession({ environment: "cartpole", payloadFormat: PayloadFormat.VALUE });
  const result: StepResult = await sessions.step({ session: session.name }, { timeoutMs: 1000, signal: new AbortController().signal });
  // @ts-expect-error: no such field
  await sessions.step({ sesion: session.name });
  // @ts-expect-error: no such method
  await sessions.stepp({});
  sessions.close();
  return `${result.stepIndex + 1n} ${findDetails(error, ErrorInfoSchema)[0]?.reason}`;
}

export async function overConnect(): Promise<number> {
  const sessions = createClient(SessionService, createConnectTransport({ baseUrl: "http://127.0.0.1:8080" }));
  const result = await sessions.reset({ session: "sessions/x", seed: 7n });
  // @ts-expect-error: a seed is a bigint
  await sessions.reset({ session: "sessions/x", seed: 7 });
  return result.reward ?? 0;
}
