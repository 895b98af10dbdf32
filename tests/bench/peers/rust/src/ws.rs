// SPDX-License-Identifier: Apache-2.0
//! Steps by WebSocket: each session has a socket of its own to the worker, opened and reset by its first call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use pbjson_types::Struct;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tonic::{Request, Response, Status};

use crate::json::{Observation, unreadable};
use crate::proto::{StepBytesReply, StepBytesRequest, StepReply, StepRequest, bridge_server};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How much a read takes at most. tungstenite fills that much with zeros before each, so its own 128 KiB cost a tenth of a small call's time.
const READ_SIZE: usize = 16 << 10;

/// None: not opened yet, or lost. The lock is held from a request to its reply, so that calls cannot mix.
type Session = Arc<tokio::sync::Mutex<Option<Socket>>>;

pub struct Bridge {
    worker: String,
    sessions: Mutex<HashMap<String, Session>>,
}

#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Ask {
    Reset {},
    Step(Option<Struct>),
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Reply<T> {
    Observation(T),
    Error(WorkerError),
}

/// A reply whose data is left as it is.
#[derive(Deserialize)]
struct RawReply<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct WorkerError {
    message: String,
    code: String,
}

impl From<WorkerError> for Status {
    fn from(e: WorkerError) -> Self {
        match e.code.as_str() {
            "VALIDATION_ERROR" => Status::invalid_argument(e.message),
            _ => Status::internal(format!("{}: {}", e.code, e.message)),
        }
    }
}

fn observation<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Status> {
    match serde_json::from_str(text).map_err(unreadable)? {
        Reply::Observation(o) => Ok(o),
        Reply::Error(e) => Err(e.into()),
    }
}

fn frame(ask: &Ask) -> Result<Utf8Bytes, Status> {
    Ok(serde_json::to_string(ask).map_err(|e| Status::invalid_argument(e.to_string()))?.into())
}

async fn exchange(socket: &mut Socket, text: Utf8Bytes) -> Result<Utf8Bytes, Status> {
    let lost = |e: &dyn std::fmt::Display| Status::unavailable(format!("the worker is lost: {e}"));
    socket.send(Message::Text(text)).await.map_err(|e| lost(&e))?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue, // tungstenite answers pings
            Some(Ok(_)) | None => return Err(lost(&"it closed the socket")),
            Some(Err(e)) => return Err(lost(&e)),
        }
    }
}

impl Bridge {
    pub fn new(worker: &str) -> Self {
        Bridge { worker: worker.into(), sessions: Mutex::default() }
    }

    fn session(&self, name: String) -> Session {
        // No code panics while it holds the lock, and a map that one did leave is whole.
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(name).or_default().clone()
    }

    async fn open(&self) -> Result<Socket, Status> {
        let config = WebSocketConfig::default().read_buffer_size(READ_SIZE);
        let (mut socket, _) =
            connect_async_with_config(&self.worker, Some(config), true).await.map_err(|e| Status::unavailable(e.to_string()))?;
        observation::<IgnoredAny>(&exchange(&mut socket, frame(&Ask::Reset {})?).await?)?;
        Ok(socket)
    }

    /// One frame to the session's worker, and the one that answers it.
    async fn call(&self, session: String, text: Utf8Bytes) -> Result<Utf8Bytes, Status> {
        let session = self.session(session);
        let mut slot = session.lock().await;
        // Out of its slot while the call runs: a call that fails or is cancelled takes the socket with it, for a reply may still come.
        let mut socket = match slot.take() {
            Some(socket) => socket,
            None => self.open().await?,
        };
        let reply = exchange(&mut socket, text).await?;
        *slot = Some(socket);
        Ok(reply)
    }
}

#[tonic::async_trait]
impl bridge_server::Bridge for Bridge {
    async fn step(&self, request: Request<StepRequest>) -> Result<Response<StepReply>, Status> {
        let request = request.into_inner();
        let reply = self.call(request.session, frame(&Ask::Step(request.action))?).await?;
        Ok(Response::new(observation::<Observation>(&reply)?.into()))
    }

    async fn step_bytes(&self, request: Request<StepBytesRequest>) -> Result<Response<StepBytesReply>, Status> {
        let StepBytesRequest { session, action } = request.into_inner();
        let action = str::from_utf8(&action).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let text = self.call(session, format!("{{\"type\":\"step\",\"data\":{action}}}").into()).await?;
        let reply: RawReply = serde_json::from_str(&text).map_err(unreadable)?;
        if reply.r#type != "observation" {
            return Err(serde_json::from_str::<WorkerError>(reply.data.get()).map_err(unreadable)?.into());
        }
        let data = reply.data.get().as_bytes();
        Ok(Response::new(StepBytesReply { reply: Bytes::from(text.clone()).slice_ref(data) }))
    }
}
