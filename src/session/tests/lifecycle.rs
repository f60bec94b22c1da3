use super::*;
use crate::wire::Code;

#[test]
fn a_call_goes_through_its_whole_life() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    assert_eq!((stream, pair.client.open_streams(), pair.proxy.open_streams()), (1, 1, 1));

    pair.send_up(stream, Bytes::from_static(b"question"));
    pair.client.finish(stream);
    pair.settle();
    // `last` travels on the message that still waited, so no HalfClose frame is needed.
    assert!(matches!(pair.at_proxy.pop_front(), Some(Event::Data { last: true, first: true, .. })));
    assert_eq!(pair.at_proxy, []);

    pair.proxy.send_headers(stream, v1::Headers { metadata: vec![text("x", "y")] });
    pair.send_down(stream, Bytes::from_static(b"answer"));
    pair.proxy.end(stream, trailers(0));
    assert_eq!(pair.proxy.open_streams(), 0, "for the owner it is over now");
    pair.settle();
    assert!(matches!(pair.at_client.pop_front(), Some(Event::Headers { stream: 1, .. })));
    assert!(matches!(pair.at_client.pop_front(), Some(Event::Data { stream: 1, last: false, .. })));
    assert!(
        matches!(pair.at_client.pop_front(), Some(Event::Ended { stream: 1, trailers }) if trailers.code == 0)
    );
    assert_eq!((pair.client.streams.len(), pair.proxy.streams.len()), (0, 0), "nothing is left of it");
}

#[test]
fn finish_with_nothing_waiting_is_a_half_close() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    pair.client.finish(stream);
    pair.client.finish(stream); // no second one
    assert_eq!(pair.client.capacity(stream), None);
    pair.settle();
    assert_eq!(pair.at_proxy.make_contiguous(), [Event::HalfClosed { stream }]);
}

#[test]
fn an_empty_message_is_a_message() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    for _ in 0..1000 {
        while pair.client.capacity(stream).is_none() {
            pair.settle();
        }
        pair.client.send(stream, Bytes::new(), 0, false);
    }
    pair.settle();
    assert_eq!(pair.at_proxy.iter().filter(|e| matches!(e, Event::Data { first: true, .. })).count(), 1000);
}

#[test]
fn headers_data_and_trailers_keep_their_order_in_one_packet() {
    let mut proxy = Alone::proxy(Settings::default());
    let stream = proxy.opened();
    proxy.session.send_headers(stream, v1::Headers::default());
    proxy.session.send(stream, Bytes::from_static(b"one"), 0, false);
    proxy.session.send(stream, Bytes::from_static(b"two"), 0, false);
    proxy.session.end(stream, trailers(5));
    let sent = proxy.frames();
    assert!(
        matches!(
            sent.iter().map(|f| &f.kind).collect::<Vec<_>>()[..],
            [FrameKind::Headers(_), FrameKind::Data { .. }, FrameKind::Data { .. }, FrameKind::Trailers(_)]
        ),
        "{sent:?}"
    );
}

#[test]
fn what_comes_for_a_stream_that_is_over_is_ignored_but_counted() {
    let mut proxy = Alone::proxy(Settings::default());
    let stream = proxy.opened();
    proxy.session.end(stream, trailers(0));
    let before = proxy.session.sequence.received;
    for round in 0..2 {
        proxy.feed(stream, data(b"late", 0)); // first its Trailers still wait, then it is gone
        proxy.feed(stream, FrameKind::Credit(0));
        proxy.feed(stream, FrameKind::HalfClose);
        proxy.feed(stream, FrameKind::Cancel);
        assert_eq!(proxy.events(), [], "round {round}");
        proxy.frames();
    }
    assert_eq!(proxy.session.sequence.received, before + 8);
}

#[test]
fn numbers_never_come_back() {
    let mut pair = Pair::greeted();
    for expected in 1..=10_000 {
        let stream = pair.opened();
        assert_eq!(stream, expected);
        pair.proxy.end(stream, trailers(0));
        pair.settle();
        pair.at_client.clear();
    }
    assert_eq!((pair.client.streams.len(), pair.proxy.streams.len()), (0, 0));
    assert!(pair.proxy.outbox.ready.capacity() <= 64 && pair.client.outbox.ready.capacity() <= 64);
}

#[test]
fn when_the_numbers_are_used_up_open_says_so() {
    let mut client = Alone::client(Settings::default());
    client.session.last_opened = StreamId::MAX - 1;
    assert_eq!(client.session.open(open("/a.B/C")), Ok(StreamId::MAX));
    assert_eq!(client.session.open(open("/a.B/C")), Err(super::super::OpenError::Exhausted));
}

#[test]
fn close_ends_everything_that_is_open_and_then_itself() {
    let reason = CloseReason::new(Code::UNAVAILABLE, "carrier_lost", "the socket is gone");
    let mut pair = Pair::greeted();
    let (one, two) = (pair.opened(), pair.opened());
    pair.proxy.close(reason.clone());
    pair.client.close(reason.clone());
    pair.client.close(reason.clone()); // once is enough
    let at_proxy: Vec<_> = std::iter::from_fn(|| pair.proxy.poll_event()).collect();
    let cancelled = |stream| Event::Cancelled { stream, code: Code::CANCELLED, reason: "carrier_lost" };
    assert_eq!(at_proxy, [cancelled(one), cancelled(two), Event::Closed(reason.clone())]);
    let at_client: Vec<_> = std::iter::from_fn(|| pair.client.poll_event()).collect();
    let [Event::Ended { stream: 1, trailers }, Event::Ended { stream: 2, .. }, Event::Closed(last)] =
        &at_client[..]
    else {
        panic!("{at_client:?}")
    };
    assert_eq!((trailers.code, last), (14, &reason));
    assert_eq!(trailers.metadata, [text("bidiway-origin", "client")]);
    assert!(pair.client.open(open("/a.B/C")).is_err());
    assert_eq!((pair.client.poll_timeout(), pair.proxy.poll_timeout()), (None, None));
}

#[test]
fn trailers_that_wait_still_leave_after_close() {
    let mut proxy = Alone::proxy(Settings::default());
    let (ended, open) = (proxy.opened(), proxy.opened());
    proxy.session.send(open, Bytes::from_static(b"dropped"), 0, false);
    proxy.session.send(ended, Bytes::from_static(b"kept"), 0, false);
    proxy.session.end(ended, trailers(0));
    proxy.session.close(CloseReason::new(Code::UNAVAILABLE, "test", "x"));
    let sent = proxy.frames();
    assert!(sent.iter().all(|f| f.stream == ended) && sent.len() == 2, "{sent:?}");
}

#[test]
fn a_close_reason_fits_a_close_frame() {
    let reason = CloseReason::new(Code::INVALID_ARGUMENT, "test", "ü".repeat(100));
    assert_eq!((reason.close_code, reason.message), (4003, "ü".repeat(61)));
}
