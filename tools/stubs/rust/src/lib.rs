// SPDX-License-Identifier: Apache-2.0
//! Generated gRPC client of envgate, a gateway for reinforcement learning environments: `v1` has its messages and, in modules such as
//! `v1::session_service_client`, its services.

#[allow(clippy::all, rustdoc::all)]
pub mod envgate {
    pub mod v1 {
        include!("envgate.v1.rs");
    }
}

#[allow(clippy::all, rustdoc::all)]
pub mod google {
    /// Errors: `rpc::details(&status)` reads them.
    pub mod rpc {
        include!("google.rpc.rs");
    }
}

pub use envgate::v1;
pub use prost;
pub use prost_types;
pub use tonic;

/// The details of the type that `name` says ("google.rpc.ErrorInfo"), which an error carries.
pub fn find_details<M: prost::Message + Default>(status: &tonic::Status, name: &str) -> Vec<M> {
    let Ok(status) = <google::rpc::Status as prost::Message>::decode(status.details()) else {
        return Vec::new();
    };
    let matching = status.details.iter().filter(|any| any.type_url.rsplit('/').next() == Some(name));
    matching.filter_map(|any| M::decode(any.value.as_slice()).ok()).collect()
}
