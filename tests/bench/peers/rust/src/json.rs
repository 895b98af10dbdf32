// SPDX-License-Identifier: Apache-2.0
//! The worker's JSON.

use pbjson_types::Struct;
use serde::Deserialize;
use tonic::Status;

use crate::proto::StepReply;

/// What a step led to.
#[derive(Deserialize)]
pub struct Observation {
    observation: Struct,
    reward: Option<f64>,
    done: bool,
    metadata: Option<Struct>,
}

impl From<Observation> for StepReply {
    fn from(o: Observation) -> Self {
        StepReply { observation: Some(o.observation), reward: o.reward, done: o.done, metadata: o.metadata }
    }
}

/// The worker's reply is not what OpenEnv says.
pub fn unreadable(error: serde_json::Error) -> Status {
    Status::internal(format!("the worker's reply is not understood: {error}"))
}
