// SPDX-License-Identifier: Apache-2.0
import type { DescMessage, DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type * as grpc from "@grpc/grpc-js";

export interface CallOptions {
  /** The call's deadline. */
  timeoutMs?: number;
  /** Cancels the call. */
  signal?: AbortSignal;
  /** Headers, such as authorization. */
  metadata?: grpc.Metadata;
}

type Call<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: MessageInitShape<M["input"]>, options?: CallOptions) => Promise<MessageShape<M["output"]>>
  : M["methodKind"] extends "server_streaming"
    ? (request: MessageInitShape<M["input"]>, options?: CallOptions) => grpc.ClientReadableStream<MessageShape<M["output"]>>
    : (options?: CallOptions) => grpc.ClientDuplexStream<MessageInitShape<M["input"]>, MessageShape<M["output"]>>;

export type GrpcClient<S extends DescService> = { [K in keyof S["method"]]: Call<S["method"][K]> } & { close(): void };

/**
 * A client of a generated service. Unary methods return promises, which reject with grpc.ServiceError. Without credentials the connection has no TLS.
 * The client keeps Node running until it is closed.
 */
export function createGrpcClient<S extends DescService>(
  service: S,
  address: string,
  credentials?: grpc.ChannelCredentials,
  options?: grpc.ClientOptions,
): GrpcClient<S>;

/** The details of that type that an error carries, such as google.rpc.ErrorInfo. */
export function findDetails<D extends DescMessage>(error: grpc.ServiceError, schema: D): MessageShape<D>[];
