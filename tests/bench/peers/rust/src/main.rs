// SPDX-License-Identifier: Apache-2.0
//! A bridge from gRPC to an OpenEnv worker: one thread, tonic in front, hyper or tungstenite behind.

mod http;
mod json;
mod ws;

use std::error::Error;

use mimalloc::MiMalloc;
use tonic::transport::{Server, server::TcpIncoming};

pub mod proto {
    tonic::include_proto!("envgate.bench.v1");
}
use proto::bridge_server::BridgeServer;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const USAGE: &str = "usage: bridge --listen HOST:PORT --worker http://HOST:PORT|ws://HOST:PORT/ws";

struct Options {
    listen: String,
    worker: String,
}

fn parse() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut listen, mut worker) = (None, None);
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("listen") => listen = Some(args.value()?.string()?),
            Long("worker") => worker = Some(args.value()?.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Options { listen: listen.ok_or(USAGE)?, worker: worker.ok_or(USAGE)? })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = parse()?;
    let incoming = TcpIncoming::bind(options.listen.parse()?)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    let mut server = Server::builder();
    let router = if options.worker.starts_with("ws://") {
        server.add_service(BridgeServer::new(ws::Bridge::new(&options.worker)))
    } else {
        server.add_service(BridgeServer::new(http::Bridge::new(&options.worker)?))
    };
    Ok(router.serve_with_incoming(incoming).await?)
}
