# SPDX-License-Identifier: Apache-2.0
"""A bridge from gRPC to an OpenEnv worker: grpc.aio in front, aiohttp behind."""

import argparse
import asyncio
import pathlib
import sys

import aiohttp
import grpc
from google.protobuf import json_format

# What tools/bench-deps.sh generates from bridge.proto.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "build/peers/gen"))

import bridge_pb2
import bridge_pb2_grpc


class Bridge(bridge_pb2_grpc.BridgeServicer):
    def __init__(self, session, worker):
        self.session = session
        self.url = worker + "/step"

    async def Step(self, request, context):
        action = json_format.MessageToDict(request.action)
        try:
            async with self.session.post(self.url, json={"action": action}) as reply:
                if reply.status == 422:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, await reply.text())
                reply.raise_for_status()
                return json_format.ParseDict(await reply.json(), bridge_pb2.StepReply(), ignore_unknown_fields=True)
        except aiohttp.ClientResponseError as e:
            await context.abort(grpc.StatusCode.INTERNAL, f"the worker answered {e.status}")
        except aiohttp.ClientError as e:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(e))
        except (ValueError, json_format.ParseError) as e:
            await context.abort(grpc.StatusCode.INTERNAL, f"the worker's reply is not understood: {e}")


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--listen", default="127.0.0.1:0")
    p.add_argument("--worker", required=True, help="http://HOST:PORT")
    return p.parse_args()


async def main():
    options = parse()
    # Workers close a connection that was idle for 5 s. No limit: aiohttp's is 100 connections.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    async with aiohttp.ClientSession(connector=connector) as session:
        server = grpc.aio.server()
        bridge_pb2_grpc.add_BridgeServicer_to_server(Bridge(session, options.worker), server)
        host = options.listen.rpartition(":")[0]
        print(f"listening on {host}:{server.add_insecure_port(options.listen)}", flush=True)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
