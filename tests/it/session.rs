//! Sessions through the whole proxy: sockets in front, the demo's services behind.

use bidiway::{
    demo::{Demo, Options, v1 as demo},
    wire::Code,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::support::{socket::Socket, within};

/// A demo that serves until it is dropped.
pub(crate) struct Running {
    pub(crate) addresses: bidiway::demo::Addresses,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn demo() -> Running {
    let started = Demo::start(Options::ephemeral()).await.unwrap();
    let addresses = started.addresses();
    let stop = CancellationToken::new();
    tokio::spawn(started.serve(stop.clone().cancelled_owned()));
    Running { addresses, stop }
}

#[tokio::test]
async fn a_unary_call_gets_its_answer() {
    let proxy = demo().await;
    within(10, async {
        let mut socket = Socket::connect(proxy.addresses.http).await;
        let request = demo::HelloRequest { name: "Ada".to_owned() };
        let answer = socket.unary("/demo.v1.Greeter/Hello", request.encode_to_vec()).await;
        assert_eq!(answer.code(), Code::OK, "{answer:?}");
        let reply = demo::HelloReply::decode(&answer.messages[0][..]).unwrap();
        assert!(reply.text.contains("Ada"), "{}", reply.text);
    })
    .await;
}

#[tokio::test]
async fn a_bidirectional_call_answers_each_message_before_the_next_is_sent() {
    let proxy = demo().await;
    within(20, async {
        let mut socket = Socket::connect(proxy.addresses.http).await;
        let stream = socket.open("/demo.v1.Lab/Bidi").await;
        for round in 0..1000_u64 {
            let payload = demo::Payload { number: round, ..Default::default() };
            socket.send(stream, payload.encode_to_vec()).await;
            let echo = demo::Payload::decode(&socket.message(stream).await[..]).unwrap();
            assert_eq!(echo.number, round);
        }
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
    })
    .await;
}
