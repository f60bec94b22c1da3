//! Sessions beside other things on one HTTP/2 connection (RFC 8441).

use bidiway::{session::Settings, wire::Code};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::support::{
    carrier::{Http2, websocket_frame},
    edge::edge,
    socket::{Io, Socket, first_packet},
    upstream::{Flooding, Scripted, Waiting, echo, message},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// A gRPC-Web call that must be echoed.
async fn web_echo(http2: &mut Http2) {
    let (_, body) = http2.web(TALK, message(b"web")).await.expect("the connection is still good");
    assert_eq!(body[..8], message(b"web"), "{body:?}");
    assert!(String::from_utf8_lossy(&body[8..]).contains("grpc-status: 0"), "{body:?}");
}

#[tokio::test]
async fn two_sockets_and_grpc_web_share_one_http2_connection() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(20, async {
        let mut http2 = Http2::connect(edge.address).await;
        let mut one = http2.session(Settings::default()).await;
        let mut two = http2.session(Settings::default()).await;
        let (first, second) = (one.open(TALK).await, two.open(TALK).await);
        for round in 0..50 {
            one.send(first, format!("one {round}")).await;
            two.send(second, format!("two {round}")).await;
            web_echo(&mut http2).await;
            assert_eq!(two.message(second).await, format!("two {round}").as_bytes());
            assert_eq!(one.message(first).await, format!("one {round}").as_bytes());
        }
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_ends_takes_nothing_else_of_its_connection_with_it() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut http2 = Http2::connect(edge.address).await;
        let mut one = http2.session(Settings::default()).await;
        let mut two = http2.session(Settings::default()).await;
        one.open(TALK).await;
        let second = two.open(TALK).await;
        upstream.begun(2).await;
        drop(one);
        upstream.cancelled(1).await;
        two.cancel(second).await;
        upstream.cancelled(1).await;
        two.open(TALK).await;
        upstream.begun(1).await;
        // The connection goes, and what it carried.
        drop((http2, two));
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn frames_before_the_answer_to_connect_are_not_lost() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let mut http2 = Http2::connect(edge.address).await;
        let (packet, session) = first_packet(TALK, b"early", Settings::default());
        let io: Box<dyn Io> = Box::new(http2.websocket_with(websocket_frame(&packet)).await);
        let ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        let answer = Socket::with(ws, session).answer(1).await;
        assert_eq!((answer.code(), &answer.messages[0][..]), (Code::OK, &b"early"[..]));
    })
    .await;
}

/// By default h2 ends a connection on which a few hundred small DATA frames wait to be read.
#[tokio::test]
async fn ten_thousand_small_frames_before_a_reader_that_stalls_do_not_end_the_connection() {
    const FRAMES: usize = 10_000;
    let upstream = Flooding::start().await;
    let edge = edge(&upstream.server.url).await;
    within(30, async {
        let mut http2 = Http2::connect(edge.address).await;
        let endless = Settings { stream_credit: 1 << 30, ..Settings::default() };
        let (packet, _) = first_packet("/t.T/Flood", b"go", endless);
        // Nobody reads what comes: the proxy cannot write any more, and then it reads no more either.
        let mut io = http2.websocket_with(websocket_frame(&packet)).await;
        let mut before = 0;
        while before == 0 || before != upstream.sent() {
            before = upstream.sent();
            for _ in 0..20 {
                web_echo(&mut http2).await;
            }
        }
        let ping = websocket_frame(&[0x0a, 0x02, 0x60, 0x01]); // Packet { Ping(1) }
        for _ in 0..FRAMES {
            io.send.send_data(ping.clone(), false).unwrap();
        }
        for _ in 0..20 {
            web_echo(&mut http2).await;
        }
        assert_eq!(upstream.sent(), before, "the proxy is still stalled");
        // Reading again, everything flows again.
        let mut read = 0;
        while read < 4 << 20 {
            let bytes = io.receive.data().await.expect("the stream goes on").expect("and is not reset");
            let _ = io.receive.flow_control().release_capacity(bytes.len());
            read += bytes.len();
        }
        web_echo(&mut http2).await;
    })
    .await;
}
