// SPDX-License-Identifier: Apache-2.0
//! Steps by plain HTTP: POST /step, on connections that are kept alive and pooled.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode, Uri, header};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pbjson_types::Struct;
use serde::Serialize;
use tonic::{Request, Response, Status};

use crate::json::{Observation, unreadable};
use crate::proto::{StepBytesReply, StepBytesRequest, StepReply, StepRequest, bridge_server};

/// Workers close a connection that was idle for 5 s.
const IDLE: Duration = Duration::from_secs(4);

pub struct Bridge {
    client: Client<HttpConnector, Full<Bytes>>,
    step: Uri,
}

#[derive(Serialize)]
struct Step {
    action: Option<Struct>,
}

impl Bridge {
    pub fn new(worker: &str) -> Result<Self, hyper::http::uri::InvalidUri> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).build(connector);
        Ok(Bridge { client, step: format!("{worker}/step").parse()? })
    }

    async fn post(&self, body: Bytes) -> Result<Bytes, Status> {
        let request = hyper::Request::builder()
            .method(Method::POST)
            .uri(self.step.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Status::internal(e.to_string()))?;
        let reply = self.client.request(request).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let status = reply.status();
        let body = reply.into_body().collect().await.map_err(|e| Status::unavailable(e.to_string()))?.to_bytes();
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::UNPROCESSABLE_ENTITY => Err(Status::invalid_argument(String::from_utf8_lossy(&body))),
            _ => Err(Status::internal(format!("the worker answered {status}"))),
        }
    }
}

#[tonic::async_trait]
impl bridge_server::Bridge for Bridge {
    async fn step(&self, request: Request<StepRequest>) -> Result<Response<StepReply>, Status> {
        let step = Step { action: request.into_inner().action };
        let body = serde_json::to_vec(&step).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let reply = self.post(body.into()).await?;
        let observation: Observation = serde_json::from_slice(&reply).map_err(unreadable)?;
        Ok(Response::new(observation.into()))
    }

    async fn step_bytes(&self, request: Request<StepBytesRequest>) -> Result<Response<StepBytesReply>, Status> {
        let action = request.into_inner().action;
        let mut body = BytesMut::with_capacity(action.len() + 16);
        body.put_slice(b"{\"action\":");
        body.put_slice(&action);
        body.put_u8(b'}');
        let reply = self.post(body.freeze()).await?;
        Ok(Response::new(StepBytesReply { reply }))
    }
}
