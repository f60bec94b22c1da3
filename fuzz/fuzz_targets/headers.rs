//! Any bytes as trailers, timeouts, content types and session metadata: no panic, and what is read can be written.
#![no_main]

use std::hint::black_box;

use bidiway::wire::{Status, grpc_web, metadata, timeout, v1};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|input: &[u8]| {
    if let Ok(trailers) = grpc_web::parse_lines(input) {
        let frame = grpc_web::trailer_frame(&trailers);
        assert_eq!(grpc_web::parse_lines(&frame[5..]), Ok(trailers.clone()));
        all(trailers);
    }
    if let Ok(timeout) = timeout::decode(input) {
        assert!(timeout::decode(timeout::encode(timeout).as_bytes()).is_ok_and(|again| again >= timeout));
    }
    if let Some(content_type) = grpc_web::ContentType::parse(input) {
        assert_eq!(grpc_web::ContentType::parse(content_type.to_value().as_bytes()), Some(content_type));
    }
    if let Ok(headers) = v1::Headers::decode(input)
        && let Ok(map) = metadata::from_entries(&headers.metadata)
    {
        assert_eq!(metadata::to_entries(&map).len(), headers.metadata.len());
        all(map);
    }
});

fn all(mut headers: HeaderMap) {
    black_box(metadata::size(&headers));
    black_box(metadata::to_entries(&headers));
    metadata::filter_request(&mut headers.clone());
    metadata::filter_response(&mut headers);
    if let Some(status) = Status::take_from(&mut headers) {
        status.write_to(&mut headers);
        assert_eq!(Status::take_from(&mut headers), Some(status));
    }
}
