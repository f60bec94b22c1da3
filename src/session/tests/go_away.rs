use super::*;
use crate::{session::OpenError, wire::Code};

#[test]
fn running_calls_go_on_and_the_session_closes_after_the_last() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    pair.proxy.go_away(Code::UNAVAILABLE, "restarting", 1500);
    pair.settle();
    let Some(Event::GoAway(notice)) = pair.at_client.pop_front() else { panic!("no notice") };
    assert_eq!((notice.last_stream, notice.code, notice.reconnect_delay_ms), (1, 14, 1500));
    assert_eq!(pair.client.open(open("/a.B/C")), Err(OpenError::GoingAway));

    pair.send_up(stream, Bytes::from_static(b"still here"));
    pair.settle();
    assert_eq!(Pair::received(&mut pair.at_proxy, stream), b"still here");
    pair.proxy.end(stream, trailers(0));
    pair.settle();
    assert!(
        matches!(pair.at_client.pop_front(), Some(Event::Ended { .. })),
        "the end arrives before the close"
    );
    let Some(Event::Closed(reason)) = pair.at_proxy.pop_front() else { panic!("not closed") };
    assert_eq!((reason.close_code, reason.label, reason.code), (1001, "drained", Code::OK));
}

#[test]
fn an_idle_session_says_goodbye_and_closes() {
    let mut proxy = Alone::proxy(Settings::default());
    proxy.session.go_away(Code::UNAVAILABLE, "restarting", 0);
    assert_eq!(proxy.closed().map(|r| r.label), Some("drained"));
    assert!(matches!(&proxy.frames()[..], [Frame { kind: FrameKind::GoAway(g), .. }] if g.last_stream == 0));
}

#[test]
fn a_call_that_raced_is_answered_as_not_processed() {
    let mut pair = Pair::greeted();
    pair.opened();
    pair.proxy.go_away(Code::UNAVAILABLE, "restarting", 0);
    let late = pair.client.open(open("/a.B/C")).expect("the notice has not come yet");
    pair.send_up(late, Bytes::from_static(b"ignored"));
    pair.settle();
    assert_eq!(pair.at_proxy, [], "nobody hears of it");
    let ended = pair.at_client.iter().find_map(|e| match e {
        Event::Ended { stream, trailers } if *stream == late => Some(trailers),
        _ => None,
    });
    let ended = ended.expect("it is answered");
    assert_eq!(ended.code, 14);
    assert_eq!(ended.metadata, [text("bidiway-origin", "proxy"), text("bidiway-unprocessed", "1")]);
    assert_eq!(pair.proxy.open_streams(), 1);
}

#[test]
fn cancelling_the_last_call_drains_too() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    pair.proxy.go_away(Code::UNAVAILABLE, "restarting", 0);
    pair.client.cancel(stream);
    pair.settle();
    assert!(matches!(pair.at_proxy.back(), Some(Event::Closed(r)) if r.label == "drained"));
}

#[test]
fn a_second_notice_keeps_the_last_stream_of_the_first() {
    let mut proxy = Alone::proxy(Settings::default());
    proxy.opened();
    proxy.session.go_away(Code::UNAVAILABLE, "soon", 0);
    proxy.frames();
    proxy.feed(2, FrameKind::Open(Box::new(open("/a.B/C"))));
    proxy.session.go_away(Code::UNAVAILABLE, "now", 0);
    let sent = proxy.frames();
    assert!(matches!(&sent[0].kind, FrameKind::GoAway(g) if g.last_stream == 1 && g.message == "now"));
}
