//! What the HTTP carrier refuses, and what becomes of the carrier then (docs/protocol.md, section 20.6).

use std::time::Duration;

use bidiway::{
    downstream::{self, Origins},
    session::Settings,
};
use bytes::Bytes;
use http::HeaderMap;

use crate::{
    session_resume::{resumable, shows},
    support::{
        carrier::{CARRIERS, Carrier},
        edge::{Edge, edge, edge_with, settings},
        http_carrier::{Field, HttpWire, Requests, close, hello, open, ping, poll, said, up},
        within,
    },
};

const OPEN: &str = "/bidiway/http/open";
const UP: &str = "/bidiway/http/up";
const DOWN: &str = "/bidiway/http/down";

/// Nothing goes upstream here.
async fn bidiway() -> Edge {
    edge("http://127.0.0.1:1").await
}

fn requests(carrier: Carrier, edge: &Edge, headers: &[(&'static str, &str)]) -> Requests {
    let headers =
        headers.iter().map(|&(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
    Requests::new(carrier, carrier.port(edge), headers.collect())
}

fn plain(carrier: Carrier, edge: &Edge) -> Requests {
    Requests::new(carrier, carrier.port(edge), HeaderMap::new())
}

#[track_caller]
fn assert_said((status, text): (u16, String), expected: u16, part: &str) {
    assert_eq!(status, expected, "{text}");
    assert!(text.contains(part), "{text:?} lacks {part:?}");
}

#[tokio::test]
async fn without_the_fallback_its_paths_are_not_there() {
    let mut settings = settings();
    settings.session.fallback = false;
    let edge = edge_with("http://127.0.0.1:1", settings).await;
    for carrier in CARRIERS {
        let mut requests = plain(carrier, &edge);
        assert_said(
            said(requests.post(OPEN, open(hello(resumable()), false)).await).await,
            404,
            "no HTTP carrier",
        );
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        let mut requests = plain(carrier, &edge);
        assert_said(said(requests.post("/bidiway/http/sideways", "").await).await, 404, "/bidiway/http/open");
        for path in [OPEN, UP, DOWN] {
            let response = requests.request("GET", path, "").await.unwrap();
            assert_eq!(response.headers()["allow"], "POST");
            assert_said(said(Ok(response)).await, 405, "POST");
        }
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_and_others_are_refused() {
    let origins = Origins::parse(&["https://app.example", "https://two.example"]).unwrap();
    let edge = edge_with("http://127.0.0.1:1", downstream::Settings { origins, ..settings() }).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut evil = requests(carrier, &edge, &[("origin", "https://evil.example")]);
            for path in [OPEN, UP, DOWN] {
                assert_said(
                    said(evil.post(path, open(hello(resumable()), false)).await).await,
                    403,
                    "evil.example",
                );
            }

            let app = requests(carrier, &edge, &[("origin", "https://app.example")]);
            let mut wire = HttpWire::new(app.another(), false).opened(resumable()).await;
            // Knowing the name is not enough.
            let name = wire.carrier.clone();
            let others =
                [requests(carrier, &edge, &[("origin", "https://two.example")]), plain(carrier, &edge)];
            for mut other in others {
                for body in [up(&name, 1, ping(1)), close(&name, 1000), up(&name, 7, ping(7))] {
                    assert_said(said(other.post(UP, body).await).await, 403, "another origin");
                }
                assert_said(said(other.post(DOWN, poll(&name, 1, 0)).await).await, 403, "another origin");
            }
            // And the carrier goes on.
            let response = wire.up.post(UP, up(&name, 1, ping(1))).await.unwrap();
            assert_eq!(response.status(), 204);
            assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
            assert_eq!(response.headers()["access-control-allow-credentials"], "true");
            while !matches!(wire.field().await, Some(Field::Packet(_))) {}

            let preflight = [
                ("origin", "https://app.example"),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "content-type"),
            ];
            let answer = requests(carrier, &edge, &preflight).request("OPTIONS", OPEN, "").await.unwrap();
            assert_eq!(answer.status(), 204);
            assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
            assert_eq!(answer.headers()["access-control-allow-methods"], "POST");
        })
        .await;
    }
}

#[tokio::test]
async fn the_response_tells_middleboxes_to_let_it_pass() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        for polls in [false, true] {
            let mut requests = plain(carrier, &edge);
            let response = requests.post(OPEN, open(hello(resumable()), polls)).await.unwrap();
            let headers = response.headers();
            assert_eq!(headers["content-type"], "application/octet-stream");
            assert_eq!(headers["cache-control"], "no-store, no-transform");
            assert_eq!(headers["x-accel-buffering"], "no");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers.contains_key("content-length"), polls, "{carrier:?}");
        }
    }
}

#[tokio::test]
async fn the_first_packet_is_followed_by_padding_and_silence_by_heartbeats() {
    let mut settings = settings();
    settings.session.heartbeat = Duration::from_millis(50);
    let edge = edge_with("http://127.0.0.1:1", settings).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut wire = carrier.http(&edge, false).opened(resumable()).await;
            for expected in [2048, 0, 0, 0] {
                let field = wire.field().await;
                assert!(matches!(field, Some(Field::Padding(len)) if len == expected), "{field:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_that_nobody_has_leads_nowhere() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        within(10, async {
            let mut wire = carrier.http(&edge, false).opened(resumable()).await;
            let mut forged = wire.carrier.to_vec();
            *forged.last_mut().unwrap() ^= 1;
            for name in
                [Bytes::from(forged), Bytes::from(vec![7; 40]), Bytes::from_static(b"x"), Bytes::new()]
            {
                for (path, body) in
                    [(UP, up(&name, 1, ping(1))), (UP, close(&name, 1000)), (DOWN, poll(&name, 1, 0))]
                {
                    assert_said(wire.ask(path, body).await, 410, "no such carrier");
                }
            }
            let name = wire.carrier.clone();
            assert_eq!(wire.ask(UP, up(&name, 1, ping(1))).await.0, 204, "it goes on");
            assert_eq!(wire.ask(UP, close(&name, 1000)).await.0, 204);
            assert_eq!(wire.closed().await, None, "the response ends");
            assert_said(wire.ask(UP, up(&name, 2, ping(2))).await, 410, "no such carrier");
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_no_open_is_refused_and_makes_no_carrier() {
    let edge = bidiway().await;
    let large = open(vec![0x0a; 262_145], false);
    for carrier in CARRIERS {
        within(10, async {
            let mut requests = plain(carrier, &edge);
            let cases: [(Bytes, u16, &str); 5] = [
                ("not protobuf".into(), 400, "no HttpOpen"),
                (Bytes::new(), 400, "no packet"),
                (open(Bytes::new(), true).into(), 400, "no packet"),
                (large.clone().into(), 413, "262144"),
                (vec![7; 300_000].into(), 413, "262144"),
            ];
            for (body, status, part) in cases {
                let answer = said(requests.post(OPEN, body).await).await;
                assert_said(answer, status, part);
            }
            shows(&edge, "bidiway_sessions_open 0").await;
        })
        .await;
    }
}

#[tokio::test]
async fn the_first_request_holds_hello_and_nothing_else() {
    let edge = bidiway().await;
    let crowded = [hello(resumable()), ping(1)].concat();
    let cases: [(Vec<u8>, &str); 4] = [
        (crowded, "Hello and nothing else"),
        (ping(1).to_vec(), "the first frame must be Hello, not Ping"),
        ([hello(resumable()).to_vec(), vec![0xff]].concat(), "Hello and nothing else"),
        (vec![0x0a, 0x55], "protobuf"),
    ];
    for carrier in CARRIERS {
        for polls in [false, true] {
            for (packet, part) in &cases {
                within(10, async {
                    let mut requests = plain(carrier, &edge);
                    let response = requests.post(OPEN, open(packet.clone(), polls)).await.unwrap();
                    assert_eq!(response.status(), 200);
                    let body =
                        http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
                    let mut wire = HttpWire::new(requests, polls);
                    wire.fields.feed(&body);
                    let opened = wire.fields.next();
                    assert!(matches!(opened, Some(Field::Opened(_))), "{opened:?}");
                    match wire.fields.next() {
                        Some(Field::Close(close)) => {
                            assert_eq!(close.code, 4003, "{}", close.reason);
                            assert!(close.reason.contains(part), "{} lacks {part}", close.reason);
                        }
                        other => panic!("{carrier:?} {polls} {part}: {other:?}"),
                    }
                    assert!(wire.fields.next().is_none());
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_packet_closes_the_session() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        let mut prefixed = up(&Bytes::new(), 1, vec![7; 300_000]);
        for (case, status, code, part) in [
            ("no number", 400, 4003, "no number"),
            ("no packet", 400, 4003, "no packet"),
            ("a large packet", 413, 4008, "262144"),
            ("a large body", 413, 4008, "262144"),
            ("a broken packet", 204, 4003, "protobuf"),
        ] {
            within(10, async {
                let mut wire = carrier.http(&edge, false).opened(resumable()).await;
                let name = wire.carrier.clone();
                let body = match case {
                    "no number" => up(&name, 0, ping(1)),
                    "no packet" => up(&name, 1, Bytes::new()),
                    "a large packet" => up(&name, 1, vec![7; 262_145]),
                    "a large body" => up(&name, 1, vec![7; 300_000]),
                    _ => up(&name, 1, vec![0x0a, 0x55]),
                };
                let (said, text) = wire.ask(UP, body).await;
                assert_eq!(said, status, "{case}: {text}");
                let (closed, reason) = wire.closed().await.expect(case);
                assert_eq!(closed, code, "{case}: {reason}");
                assert!(reason.contains(part), "{case}: {reason}");
            })
            .await;
        }
        let mut wire = carrier.http(&edge, false);
        let (said, _) = wire.ask(UP, std::mem::take(&mut prefixed)).await;
        assert_eq!(said, 413, "nobody's");
        assert_said(wire.ask(UP, b"not protobuf".to_vec()).await, 400, "no HttpUp");
        assert_said(wire.ask(DOWN, b"not protobuf".to_vec()).await, 400, "no HttpPoll");
    }
}

#[tokio::test]
async fn content_types_mean_nothing() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        for content_type in
            ["application/grpc", "application/grpc-web+proto", "text/plain", "application/json"]
        {
            within(10, async {
                let requests = requests(carrier, &edge, &[("content-type", content_type)]);
                let mut wire = HttpWire::new(requests, false).opened(Settings::default()).await;
                let name = wire.carrier.clone();
                assert_eq!(wire.ask(UP, up(&name, 1, ping(1))).await.0, 204, "{content_type}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn an_address_has_so_many_carriers_and_sockets_together() {
    let mut settings = settings();
    settings.limits.sockets_per_address = 2;
    let edge = edge_with("http://127.0.0.1:1", settings).await;
    within(10, async {
        let _one = Carrier::Http1.connect(&edge).await;
        let two = Carrier::Http2.http(&edge, true).opened(Settings::default()).await;
        let mut requests = plain(Carrier::Http1, &edge);
        let answer = said(requests.post(OPEN, open(hello(Settings::default()), false)).await).await;
        assert_said(answer, 429, "2 open sockets");
        let mut two = two;
        two.close(1000).await;
        shows(&edge, "bidiway_carriers_open{carrier=\"http_poll\"} 0").await;
        Carrier::Http1.http(&edge, false).opened(Settings::default()).await;
    })
    .await;
}

#[tokio::test]
async fn a_gap_in_the_numbers_loses_the_carrier_and_not_the_session() {
    for carrier in CARRIERS {
        for (resumable, polls, number) in
            [(true, false, 3), (true, false, u64::MAX), (true, true, 3), (false, false, 3)]
        {
            let edge = bidiway().await;
            within(10, async {
                let settings = Settings { resumable, ..Settings::default() };
                let mut wire = carrier.http(&edge, polls).opened(settings).await;
                let name = wire.carrier.clone();
                assert_eq!(wire.ask(UP, up(&name, 1, ping(1))).await.0, 204);
                assert_said(wire.ask(UP, up(&name, number, ping(3))).await, 409, "another number was due");
                let (code, reason) = wire.closed().await.unwrap();
                assert_eq!(code, 4014, "{reason}");
                assert!(reason.contains(&format!("packet {number} came where 2 was due")), "{reason}");
                let parked = u8::from(resumable);
                shows(&edge, &format!("bidiway_sessions_open {parked}")).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn polls_have_numbers_and_a_carrier_that_streams_has_no_polls() {
    let edge = bidiway().await;
    for carrier in CARRIERS {
        within(10, async {
            let mut wire = carrier.http(&edge, false).opened(resumable()).await;
            let name = wire.carrier.clone();
            assert_said(wire.ask(DOWN, poll(&name, 1, 0)).await, 409, "streams");
            assert_eq!(wire.ask(UP, up(&name, 1, ping(1))).await.0, 204, "it goes on");

            for (number, status, code) in [(2, 409, 4014), (0, 400, 4003)] {
                let mut wire = carrier.http(&edge, true).opened(resumable()).await;
                let name = wire.carrier.clone();
                assert_eq!(wire.ask(DOWN, poll(&name, number, 0)).await.0, status);
                assert_eq!(wire.closed().await.unwrap().0, code);
            }
        })
        .await;
    }
}
