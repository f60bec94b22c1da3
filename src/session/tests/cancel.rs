use super::*;
use crate::wire::Code;

#[test]
fn cancel_reaches_the_proxy_and_drops_what_waits() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    pair.send_up(stream, vec![0; 10_000].into());
    pair.client.cancel(stream);
    pair.settle();
    assert_eq!(
        pair.at_proxy.make_contiguous(),
        [Event::Cancelled { stream, code: Code::CANCELLED, reason: "cancelled" }]
    );
    assert_eq!((pair.client.streams.len(), pair.proxy.streams.len()), (0, 0));
    assert_eq!(pair.at_client, [], "the one who cancels hears no more of it");
}

#[test]
fn cancel_before_open_has_left_still_uses_the_number() {
    let mut pair = Pair::greeted();
    let first = pair.client.open(open("/a.B/C")).expect("room");
    pair.client.cancel(first);
    let second = pair.client.open(open("/a.B/C")).expect("room");
    pair.settle();
    assert_eq!(pair.at_proxy.len(), 3, "{:?}", pair.at_proxy);
    assert!(matches!(pair.at_proxy.back(), Some(Event::Opened { stream, .. }) if *stream == second));
}

#[test]
fn frames_in_flight_to_a_client_that_cancelled_are_ignored() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    pair.proxy.send_headers(stream, v1::Headers::default());
    pair.send_down(stream, vec![0; 30_000].into());
    pair.proxy.end(stream, trailers(0));
    pair.client.cancel(stream);
    pair.settle();
    assert_eq!((pair.at_client.len(), pair.at_proxy.len()), (0, 0));
    assert_eq!((pair.client.streams.len(), pair.proxy.streams.len()), (0, 0));
}

#[test]
fn a_cancel_drops_trailers_that_wait_behind_a_blocked_carrier() {
    let mut proxy = Alone::proxy(Settings::default());
    let stream = proxy.opened();
    pair::feed(&mut proxy.session, stream, vec![0; 30_000].into());
    proxy.session.end(stream, trailers(0));
    proxy.feed(stream, FrameKind::Cancel);
    assert_eq!(proxy.events(), [], "for the owner it was over already");
    assert_eq!(proxy.frames(), []);
}

#[test]
fn a_storm_of_open_and_cancel_past_a_blocked_carrier_leaves_nothing() {
    let mut proxy = Alone::proxy(Settings::default());
    for stream in 1..=20_000 {
        proxy.feed(stream, FrameKind::Open(Box::new(open("/a.B/C"))));
        proxy.session.send_headers(stream, v1::Headers::default());
        proxy.feed(stream, FrameKind::Data { bytes: vec![0; 15_000].into(), remaining: 0, last: false });
        proxy.session.consumed(stream, 15_000, 1);
        proxy.feed(stream, FrameKind::Cancel);
        proxy.events();
    }
    assert!(proxy.session.outbox.ready.len() < 100);
    assert_eq!(proxy.frames(), []);
    assert_eq!(proxy.session.streams.len(), 0);
}

#[test]
fn a_client_that_opens_and_cancels_past_a_blocked_carrier_is_told_to_wait() {
    let mut client = Alone::client(Settings::default());
    let mut opened = 0;
    while let Ok(stream) = client.session.open(open("/a.B/C")) {
        client.session.cancel(stream);
        opened += 1;
    }
    assert_eq!((opened, client.session.open_streams()), (100, 0));
    client.frames();
    assert!(client.session.open(open("/a.B/C")).is_ok());
}
