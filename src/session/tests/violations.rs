//! Every breach, made of real bytes, with the answer to it.

use super::*;
use crate::{
    session::{Verdict, Violation},
    wire::{Code, frame::FrameError},
};

/// What the offender and the owner see.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The session is closed with this code.
    Closed(Code, String),
    /// One stream has ended with this code; another one goes on.
    Reset(Code, String),
}

/// What follows after `breach` in a session that is set up for it.
fn answer(mut one: Alone, breach: impl FnOnce(&mut Alone)) -> Answer {
    breach(&mut one);
    let events = one.events();
    if let Some(Event::Closed(reason)) = events.last() {
        assert_eq!(reason.label, "violation");
        assert_eq!(reason.close_code, 4000 + reason.code.0 as u16);
        return Answer::Closed(reason.code, reason.message.clone());
    }
    assert!(!one.session.is_closed());
    let sent = one.frames();
    if one.session.side() == Side::Client {
        assert!(sent.iter().any(|f| f.kind == FrameKind::Cancel), "the proxy hears of it: {sent:?}");
        let ended = events.iter().find_map(|e| match e {
            Event::Ended { trailers, .. } => Some(trailers),
            _ => None,
        });
        let ended = ended.expect("the owner hears of it");
        return Answer::Reset(Code(ended.code), ended.message.clone());
    }
    let ended = sent.iter().find_map(|f| match &f.kind {
        FrameKind::Trailers(trailers) => Some(trailers),
        _ => None,
    });
    let ended = ended.unwrap_or_else(|| panic!("the client hears of it: {events:?}, {sent:?}"));
    assert_eq!(ended.metadata[0], text("bidiway-origin", "proxy"));
    Answer::Reset(Code(ended.code), ended.message.clone())
}

type Case = (Violation, fn() -> Answer);

fn proxy(breach: impl FnOnce(&mut Alone)) -> Answer {
    answer(Alone::proxy(Settings::default()), breach)
}

/// A proxy with stream 1 open.
fn serving(breach: impl FnOnce(&mut Alone)) -> Answer {
    let mut one = Alone::proxy(Settings { max_streams: 2, max_message: 1000, ..Settings::default() });
    one.opened();
    answer(one, |one| {
        breach(one);
        if !one.session.is_closed() {
            assert!(one.session.streams.contains_key(&1), "its Trailers wait");
        }
    })
}

fn fresh(side: Side, breach: impl FnOnce(&mut Alone)) -> Answer {
    answer(Alone::new(side, Settings::default()), |one| {
        one.frames();
        breach(one);
    })
}

/// A client with stream 1 open.
fn calling(breach: impl FnOnce(&mut Alone)) -> Answer {
    let mut one = Alone::client(Settings::default());
    one.session.open(open("/a.B/C")).expect("room");
    one.frames();
    answer(one, breach)
}

/// A client that has sent two frames, of which one was acknowledged, and whose session is resumed so.
fn returning(received: u64, token: &'static str) -> Answer {
    let mut one = Alone::new(Side::Client, Settings { resumable: true, ..Settings::default() });
    one.session.open(open("/a.B/C")).expect("room");
    one.session.finish(1);
    one.frames();
    let welcome = |token: &'static str| v1::Welcome {
        resume_token: Bytes::from_static(token.as_bytes()),
        resume_grace_ms: 1000,
        ..welcome()
    };
    one.feed(0, FrameKind::Welcome(Box::new(welcome("one"))));
    one.feed(0, FrameKind::Ack(1));
    one.events();
    assert!(one.session.detach(one.now));
    one.session.reattach(one.now);
    one.frames();
    answer(one, |one| {
        let welcome = v1::Welcome { resumed: true, received, ..welcome(token) };
        one.feed(0, FrameKind::Welcome(Box::new(welcome)));
    })
}

fn opening(metadata: Vec<v1::Metadata>) -> FrameKind {
    FrameKind::Open(Box::new(v1::Open { metadata, ..open("/a.B/C") }))
}

fn cases() -> Vec<Case> {
    vec![
        (Violation::AckBackwards { acked: 0, before: 1 }, || {
            serving(|p| {
                p.session.send(1, Bytes::new(), 0, false);
                p.frames();
                p.feed(0, FrameKind::Ack(1));
                p.feed(0, FrameKind::Ack(0));
            })
        }),
        (Violation::AckBeyondSent { acked: 1, sent: 0 }, || serving(|p| p.feed(0, FrameKind::Ack(1)))),
        (Violation::BeforeWelcome("Ping"), || {
            answer(Alone::new(Side::Proxy, Settings::default()), |p| {
                p.session.announce_resume(Bytes::from_static(b"two"));
                let token = Bytes::from_static(b"one");
                p.feed(0, FrameKind::Hello(Box::new(v1::Hello { resume_token: token, ..hello() })));
                p.feed(0, FrameKind::Ping(1));
            })
        }),
        (Violation::CreditBeyondCap { sum: 1 << 31 }, || {
            serving(|p| p.feed(1, FrameKind::Credit((1 << 31) - 65_536)))
        }),
        (Violation::CreditTooSmall { credit: 16_383, least: 16_384 }, || {
            fresh(Side::Proxy, |p| {
                p.feed(0, FrameKind::Hello(Box::new(v1::Hello { stream_credit: 16_383, ..hello() })));
            })
        }),
        (Violation::CreditTooSmall { credit: 0, least: 65_536 }, || {
            fresh(Side::Client, |c| {
                c.feed(0, FrameKind::Welcome(Box::new(v1::Welcome { limits: None, ..welcome() })));
            })
        }),
        (Violation::CreditZero, || serving(|p| p.feed(1, FrameKind::Credit(0)))),
        (Violation::DataAfterEnd, || {
            serving(|p| {
                p.feed(1, FrameKind::HalfClose);
                p.feed(1, data(b"x", 0));
            })
        }),
        (Violation::DataAfterEnd, || {
            serving(|p| {
                p.feed(1, FrameKind::Data { bytes: Bytes::new(), remaining: 0, last: true });
                p.feed(1, data(b"x", 0));
            })
        }),
        (Violation::DataBeyondCredit { cost: 33, credit: 32 }, || {
            serving(|p| {
                for _ in 0..262_144 / 32 - 1 {
                    p.feed(1, data(b"", 0));
                }
                p.feed(1, data(b"x", 0));
            })
        }),
        (Violation::DefaultMetadataTooLarge { size: 16_385, limit: 16_384 }, || {
            proxy(|p| {
                let metadata = vec![text("n", &"v".repeat(16_384 - 32))];
                p.feed(0, FrameKind::Refresh(v1::Refresh { metadata }));
            })
        }),
        (Violation::EmptyPiece, || serving(|p| p.feed(1, data(b"", 5)))),
        (Violation::EmptyPiece, || {
            serving(|p| {
                p.feed(1, data(b"x", 5));
                p.feed(1, data(b"", 5));
            })
        }),
        (Violation::FirstNotHello("Open"), || fresh(Side::Proxy, |p| p.feed(1, opening(vec![])))),
        (Violation::FirstNotWelcome("Headers"), || {
            fresh(Side::Client, |c| c.feed(1, FrameKind::Headers(v1::Headers::default())))
        }),
        (Violation::HalfCloseInsideMessage { missing: 5 }, || {
            serving(|p| {
                p.feed(1, data(b"x", 5));
                p.feed(1, FrameKind::HalfClose);
            })
        }),
        (Violation::HalfCloseTwice, || {
            serving(|p| {
                p.feed(1, FrameKind::HalfClose);
                p.feed(1, FrameKind::HalfClose);
            })
        }),
        (Violation::HeadersAfterData, || {
            calling(|c| {
                c.feed(1, data(b"x", 0));
                c.feed(1, FrameKind::Headers(v1::Headers::default()));
            })
        }),
        (Violation::HeadersTwice, || {
            calling(|c| {
                c.feed(1, FrameKind::Headers(v1::Headers::default()));
                c.feed(1, FrameKind::Headers(v1::Headers::default()));
            })
        }),
        (Violation::HelloTwice, || proxy(|p| p.feed(0, FrameKind::Hello(Box::new(hello()))))),
        (Violation::LastFromProxy, || {
            calling(|c| c.feed(1, FrameKind::Data { bytes: Bytes::new(), remaining: 0, last: true }))
        }),
        (Violation::Malformed(FrameError::Malformed), || proxy(|p| p.feed_bytes(&b"\x0a\x05\x20"[..]))),
        (Violation::Malformed(FrameError::NoKind), || proxy(|p| p.feed_bytes(&b"\x0a\x02\x08\x01"[..]))),
        (Violation::Malformed(FrameError::Misplaced), || {
            proxy(|p| p.feed_bytes(&b"\x0a\x06\x08\x01\x10\x05\x60\x01"[..]))
        }),
        (Violation::MessageTooLarge { size: 1001, limit: 1000 }, || serving(|p| p.feed(1, data(b"x", 1000)))),
        (Violation::MetadataTooLarge { size: 16_385, limit: 16_384 }, || {
            proxy(|p| p.feed(1, opening(vec![text("n", &"v".repeat(16_384 - 32))])))
        }),
        (Violation::NoCommonVersion { offered: "[2, 3]".into() }, || {
            fresh(Side::Proxy, |p| {
                p.feed(0, FrameKind::Hello(Box::new(v1::Hello { versions: vec![2, 3], ..hello() })));
            })
        }),
        (Violation::OpenFlood, || {
            serving(|p| {
                for stream in 2..=259 {
                    p.feed(stream, opening(vec![]));
                    assert!(!p.session.is_closed() || stream == 259);
                }
            })
        }),
        (Violation::SessionFrameOnStream { kind: "Ping", stream: 1 }, || {
            serving(|p| p.feed(1, FrameKind::Ping(1)))
        }),
        (Violation::StreamFrameOnSession("data"), || serving(|p| p.feed(0, data(b"x", 0)))),
        (Violation::StreamNumber { expected: 2, got: 3 }, || serving(|p| p.feed(3, opening(vec![])))),
        (Violation::StreamNumber { expected: 2, got: 1 }, || serving(|p| p.feed(1, opening(vec![])))),
        (Violation::StreamUnknown { kind: "data", stream: 2 }, || serving(|p| p.feed(2, data(b"x", 0)))),
        (Violation::StreamUnknown { kind: "Headers", stream: 2 }, || {
            calling(|c| {
                c.session.open(open("/a.B/C")).expect("room"); // but the Open has not left yet
                c.feed(2, FrameKind::Headers(v1::Headers::default()));
            })
        }),
        (Violation::Text, || {
            proxy(|p| {
                let now = p.now;
                p.session.handle_text(now);
            })
        }),
        (Violation::TooManyStreams { limit: 2 }, || {
            serving(|p| {
                p.feed(2, opening(vec![]));
                p.feed(3, opening(vec![]));
                assert_eq!(p.session.open_streams(), 2);
            })
        }),
        (Violation::ReceivedBackwards { received: 0, acked: 1 }, || returning(0, "two")),
        (Violation::ReceivedBeyondSent { received: 3, sent: 2 }, || returning(3, "two")),
        (Violation::ResumedUnasked, || {
            fresh(Side::Client, |c| {
                c.feed(0, FrameKind::Welcome(Box::new(v1::Welcome { resumed: true, ..welcome() })));
            })
        }),
        (Violation::ResumedWithoutToken, || returning(2, "")),
        (Violation::TrailersInsideMessage { missing: 5 }, || {
            calling(|c| {
                c.feed(1, data(b"x", 5));
                c.feed(1, FrameKind::Trailers(Box::new(trailers(0))));
            })
        }),
        (Violation::VersionNotOffered(2), || {
            fresh(Side::Client, |c| {
                c.feed(0, FrameKind::Welcome(Box::new(v1::Welcome { version: 2, ..welcome() })));
            })
        }),
        (Violation::WelcomeTwice, || calling(|c| c.feed(0, FrameKind::Welcome(Box::new(welcome()))))),
        (Violation::WrongDirection("Trailers"), || {
            serving(|p| p.feed(1, FrameKind::Trailers(Box::new(trailers(0)))))
        }),
        (Violation::WrongDirection("HalfClose"), || calling(|c| c.feed(1, FrameKind::HalfClose))),
        (Violation::WrongRemaining { expected: 5, got: 6 }, || {
            serving(|p| {
                p.feed(1, data(b"x", 5));
                p.feed(1, data(b"yz", 4));
            })
        }),
        (Violation::WrongRemaining { expected: 5, got: 0 }, || {
            serving(|p| {
                p.feed(1, data(b"x", 5));
                p.feed(1, data(b"", 0)); // a new message may not begin inside another
            })
        }),
    ]
}

/// Numbers the variants, without a wildcard: a new one does not compile until it has a number and a case.
fn number(violation: &Violation) -> usize {
    use Violation as V;
    match violation {
        V::AckBackwards { .. } => 0,
        V::AckBeyondSent { .. } => 1,
        V::CreditBeyondCap { .. } => 2,
        V::CreditTooSmall { .. } => 3,
        V::CreditZero => 4,
        V::DataAfterEnd => 5,
        V::DataBeyondCredit { .. } => 6,
        V::DefaultMetadataTooLarge { .. } => 7,
        V::EmptyPiece => 8,
        V::FirstNotHello(_) => 9,
        V::FirstNotWelcome(_) => 10,
        V::HalfCloseInsideMessage { .. } => 11,
        V::HalfCloseTwice => 12,
        V::HeadersAfterData => 13,
        V::HeadersTwice => 14,
        V::HelloTwice => 15,
        V::LastFromProxy => 16,
        V::Malformed(_) => 17,
        V::MessageTooLarge { .. } => 18,
        V::MetadataTooLarge { .. } => 19,
        V::NoCommonVersion { .. } => 20,
        V::OpenFlood => 21,
        V::SessionFrameOnStream { .. } => 22,
        V::StreamFrameOnSession(_) => 23,
        V::StreamNumber { .. } => 24,
        V::StreamUnknown { .. } => 25,
        V::Text => 26,
        V::TooManyStreams { .. } => 27,
        V::TrailersInsideMessage { .. } => 28,
        V::VersionNotOffered(_) => 29,
        V::WelcomeTwice => 30,
        V::WrongDirection(_) => 31,
        V::WrongRemaining { .. } => 32,
        V::BeforeWelcome(_) => 33,
        V::ReceivedBackwards { .. } => 34,
        V::ReceivedBeyondSent { .. } => 35,
        V::ResumedUnasked => 36,
        V::ResumedWithoutToken => 37,
    }
}

const VARIANTS: usize = 38;

#[test]
fn every_violation_gets_its_verdict_and_says_what_was_wrong() {
    let mut seen = [false; VARIANTS];
    let mut labels = std::collections::HashSet::new();
    for (violation, breach) in cases() {
        let text = violation.to_string();
        let expected = match violation.verdict() {
            Verdict::Close(code) => Answer::Closed(code, text),
            Verdict::Reset(code) => Answer::Reset(code, text),
        };
        assert_eq!(breach(), expected, "{violation:?}");
        seen[number(&violation)] = true;
        labels.insert(violation.label());
    }
    assert_eq!(seen, [true; VARIANTS], "every variant has a case");
    assert_eq!(labels.len(), VARIANTS, "every variant has a label of its own");
}

#[test]
fn docs_have_every_violation_and_its_verdict() {
    let docs = include_str!("../../../docs/protocol.md");
    for (violation, _) in cases() {
        let (verb, code) = match violation.verdict() {
            Verdict::Close(code) => ("close", code),
            Verdict::Reset(code) => ("reset", code),
        };
        let row = format!("| `{}` | {verb} {code} |", violation.label());
        assert!(docs.contains(&row), "docs/protocol.md has no row {row}");
    }
}

#[test]
fn a_breach_on_one_stream_leaves_the_others_alone() {
    let mut pair = Pair::greeted();
    let (bad, good) = (pair.opened(), pair.opened());
    let mut packet = BytesMut::new();
    frame::encode(&Frame { stream: bad, kind: FrameKind::Credit(0) }, &mut packet);
    pair.proxy.handle_packet(packet.freeze(), pair.now);
    pair.send_up(good, Bytes::from_static(b"fine"));
    pair.settle();
    assert_eq!(Pair::received(&mut pair.at_proxy, good), b"fine");
    assert!(matches!(&pair.at_client[0], Event::Ended { trailers, .. } if trailers.code == 3));
}

#[test]
fn frames_behind_a_fatal_one_are_not_looked_at() {
    let mut proxy = Alone::proxy(Settings::default());
    let mut packet = BytesMut::new();
    frame::encode(&Frame { stream: 5, kind: FrameKind::Cancel }, &mut packet);
    frame::encode(&Frame { stream: 1, kind: opening(vec![]) }, &mut packet);
    proxy.feed_bytes(packet.freeze());
    assert!(matches!(proxy.events()[..], [Event::Closed(_)]));
    proxy.feed(1, opening(vec![]));
    assert_eq!((proxy.events(), proxy.frames()), (vec![], vec![]));
}

#[test]
fn refused_calls_are_marked_as_not_processed() {
    let mut proxy = Alone::proxy(Settings { max_streams: 0, ..Settings::default() });
    proxy.feed(1, opening(vec![]));
    let sent = proxy.frames();
    let [Frame { kind: FrameKind::Trailers(end), .. }] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(end.metadata, [text("bidiway-origin", "proxy"), text("bidiway-unprocessed", "1")]);
}

#[test]
fn any_bytes_are_answered_and_never_with_a_panic() {
    let mut seed = 1u64;
    for round in 0..20_000 {
        let mut one = if round % 2 == 0 {
            Alone::proxy(Settings::default())
        } else {
            Alone::client(Settings::default())
        };
        let bytes: Vec<u8> = (0..round % 40)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let mut packet = vec![0x0a, bytes.len() as u8];
        packet.extend(bytes);
        one.feed_bytes(packet);
        one.events();
        one.frames();
    }
}
