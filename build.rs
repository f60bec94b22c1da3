//! Turns `proto/` into Rust (the compiler is protox, in pure Rust: nobody has to install `protoc`), and lists the
//! shim's files, which the proxy embeds and serves.

use std::{
    env,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let session = protox::compile(["bidiway/v1/session.proto", "bidiway/v1/http.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(session)?;

    let demo = protox::compile(["demo/v1/demo.proto"], ["proto"])?;
    fs::write(out.join("demo.binpb"), prost::Message::encode_to_vec(&demo))?;
    tonic_prost_build::configure().bytes(".").compile_fds(demo)?;

    let authorization = protox::compile(["envoy/service/auth/v3/authorization.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(authorization)?;
    let traces = protox::compile(["opentelemetry/proto/collector/trace/v1/trace_service.proto"], ["proto"])?;
    tonic_prost_build::configure().include_file("opentelemetry.rs").compile_fds(traces)?;

    fs::write(out.join("assets.rs"), assets(Path::new("shim/src"))?)?;
    Ok(())
}

/// A Rust expression that lists the JavaScript files under `root`, sorted by path.
fn assets(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    if root.is_dir() {
        println!("cargo::rerun-if-changed={}", root.display());
        collect(root, &mut files)?;
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let text = fs::read_to_string(&file)?;
        // A path under `root` with an absolute one to include.
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string().replace('\\', "/");
        let absolute = file.canonicalize()?;
        let etag = format!("\"{:016x}\"", fnv1a(text.as_bytes()));
        let _ = writeln!(
            table,
            "    Asset {{ path: {name:?}, etag: {etag:?}, text: include_str!({absolute:?}) }},"
        );
    }
    table.push(']');
    Ok(table)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            collect(&path, files)?;
        } else if name.ends_with(".js") && !name.ends_with(".test.js") {
            files.push(path);
        }
    }
    Ok(())
}

/// A hash that is the same on every machine and in every release of the compiler, so that builds can be reproduced.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
