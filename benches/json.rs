//! What JSON costs beside binary, for a message of about 100 bytes: `cargo bench --bench json`.
//!
//! Binary is what the proxy does with a binary message: it looks at the length prefix and passes the bytes on. No
//! schema is on that way, so there is nothing else to compare with.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and fails by panicking")]

use std::{hint::black_box, path::PathBuf};

use bidiway::{
    schema::{
        Descriptors, JsonOptions,
        json::{to_json, to_protobuf},
    },
    wire::envelope::{PREFIX_LEN, prefix},
};
use bytes::Bytes;
use tokio::time::Instant;

const ROUNDS: u32 = 200_000;

/// The best of several rounds, in nanoseconds a message.
fn time<T>(what: &str, size: usize, mut work: impl FnMut() -> T) {
    let best = (0..5).map(|_| {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            black_box(work());
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
    });
    let best = best.fold(f64::INFINITY, f64::min);
    println!("{what:<28} {best:>8.0} ns {size:>5} bytes");
}

fn main() {
    let descriptors =
        Descriptors::compile(&[PathBuf::from("proto/demo/v1/demo.proto")], &[PathBuf::from("proto")])
            .unwrap();
    let message = descriptors.pool().get_message_by_name("demo.v1.ChatMessage").unwrap();
    let options = JsonOptions::default();
    let json = br#"{"room":"lobby","user":"somebody","text":"A message as people write them in a chat, about one line of it.","kind":"NOTICE","timeMs":"1700000000000","members":12}"#;
    let binary = to_protobuf(&message, json, &options).unwrap();
    assert_eq!(to_json(&message, &binary, &options).unwrap(), json);

    let framed = [&prefix(binary.len() as u32)[..], &binary].concat();
    let framed = Bytes::from(framed);
    time("binary: prefix and slice", binary.len(), || {
        let size = u32::from_be_bytes(framed[1..PREFIX_LEN].try_into().unwrap());
        framed.slice(PREFIX_LEN..PREFIX_LEN + size as usize)
    });
    time("JSON to protobuf", json.len(), || to_protobuf(&message, black_box(json), &options).unwrap());
    time("protobuf to JSON", binary.len(), || to_json(&message, black_box(&binary), &options).unwrap());
}
