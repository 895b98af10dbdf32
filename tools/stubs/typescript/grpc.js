// SPDX-License-Identifier: Apache-2.0
// The generated services over gRPC, by @grpc/grpc-js. grpc.d.ts says what each function does.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { StatusSchema } from "./google/rpc/status_pb.js";

const streamsRequests = { client_streaming: true, bidi_streaming: true };
const streamsReplies = { server_streaming: true, bidi_streaming: true };

function definition(method) {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: Boolean(streamsRequests[method.methodKind]),
    responseStream: Boolean(streamsReplies[method.methodKind]),
    requestSerialize: (message) => Buffer.from(toBinary(method.input, create(method.input, message))),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
}

function callOptions({ timeoutMs }) {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

function unary(client, name) {
  return (request, options = {}) =>
    new Promise((resolve, reject) => {
      const { signal } = options;
      const cancel = () => call.cancel();
      const call = client[name](request, options.metadata ?? new grpc.Metadata(), callOptions(options), (error, reply) => {
        signal?.removeEventListener("abort", cancel);
        error ? reject(error) : resolve(reply);
      });
      signal?.addEventListener("abort", cancel);
      if (signal?.aborted) cancel();
    });
}

function streaming(client, name, requestStream) {
  return (...args) => {
    const [request, options = {}] = requestStream ? [undefined, ...args] : args;
    const rest = [options.metadata ?? new grpc.Metadata(), callOptions(options)];
    return requestStream ? client[name](...rest) : client[name](request, ...rest);
  };
}

export function createGrpcClient(service, address, credentials = grpc.credentials.createInsecure(), options = {}) {
  const definitions = Object.fromEntries(service.methods.map((method) => [method.localName, definition(method)]));
  const Client = grpc.makeClientConstructor(definitions, service.typeName);
  const client = new Client(address, credentials, options);
  const result = { close: () => client.close() };
  for (const method of service.methods) {
    const { requestStream } = definitions[method.localName];
    result[method.localName] =
      method.methodKind === "unary" ? unary(client, method.localName) : streaming(client, method.localName, requestStream);
  }
  return result;
}

export function findDetails(error, schema) {
  const bytes = error.metadata?.get("grpc-status-details-bin")[0];
  if (!bytes) return [];
  const { details } = fromBinary(StatusSchema, bytes);
  return details.map((any) => anyUnpack(any, schema)).filter((message) => message !== undefined);
}
