// SPDX-License-Identifier: Apache-2.0
//! Generates the service from what protoc made of bridge.proto: tools/bench-deps.sh says where that is.

use std::{env, error::Error, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::var("BRIDGE_DESCRIPTORS").map_err(|_| "BRIDGE_DESCRIPTORS is not set: build by tools/bench-deps.sh")?;
    println!("cargo:rerun-if-env-changed=BRIDGE_DESCRIPTORS");
    println!("cargo:rerun-if-changed={path}");
    tonic_prost_build::configure()
        .build_client(false)
        // Bytes that share the received buffer, in place of copies.
        .bytes(".")
        // A Struct that serde reads and writes without a tree in between.
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(FileDescriptorSet::decode(fs::read(path)?.as_slice())?)?;
    Ok(())
}
