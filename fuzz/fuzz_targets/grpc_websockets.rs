//! Any bytes as what a client of `grpc-websockets` or its multiplexed form sends: no panic, and what is read is what
//! was sent.
#![no_main]

use bidiway::wire::grpc_websockets::{
    InvalidMessage, Request, is_request, read_frame, read_headers, read_request, stream_number, write_block,
};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let message = Bytes::copy_from_slice(input);
    match read_request(message.clone()) {
        Ok(None) => assert!(input.is_empty()),
        Ok(Some(Request::HalfClose)) => assert_eq!(input, [1]),
        Ok(Some(Request::Data(data))) => assert_eq!(data, input[1..]),
        Err(error) => assert_eq!(error, InvalidMessage::Prefix(input[0])),
    }
    if let Ok(frame) = read_frame(message) {
        let whole = [&stream_number(frame.stream, frame.last)[..], &frame.payload].concat();
        assert_eq!(whole, input);
        assert!(frame.last || !frame.payload.is_empty());
    }
    if let Ok(headers) = read_headers(input) {
        assert!(!is_request(input), "no header block begins like a message behind it");
        let mut block = BytesMut::new();
        write_block(&headers, &mut block);
        let again = read_headers(&block[5..]).expect("a block that was written can be read");
        assert!(again.len() <= headers.len());
        for (name, value) in &again {
            assert!(headers.get_all(name).iter().any(|sent| sent == value));
        }
    }
});
