//! Turns `proto/` into Rust. The compiler is protox, in pure Rust: nobody has to install `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let session = protox::compile(["bidiway/v1/session.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(session)?;

    let demo = protox::compile(["demo/v1/demo.proto"], ["proto"])?;
    std::fs::write(out.join("demo.binpb"), prost::Message::encode_to_vec(&demo))?;
    tonic_prost_build::configure().bytes(".").compile_fds(demo)?;
    Ok(())
}
