// SPDX-License-Identifier: Apache-2.0
//! Writes the Rust client of the services in a FileDescriptorSet: generate DESCRIPTORS DIRECTORY

use std::{env, error::Error, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(descriptors), Some(directory)) = (args.next(), args.next()) else {
        return Err("usage: generate DESCRIPTORS DIRECTORY".into());
    };
    let mut set = FileDescriptorSet::decode(fs::read(descriptors)?.as_slice())?;
    // Health and reflection have clients of their own (tonic-health, tonic-reflection), and no message needs the annotations.
    set.file.retain(|file| !file.package().starts_with("grpc.") && file.package() != "google.api");
    tonic_prost_build::configure().build_server(false).out_dir(directory).compile_fds(set)?;
    Ok(())
}
