use super::*;
use crate::session::{FRAME_OVERHEAD, MAX_PIECE};
use crate::wire::Code;

#[test]
fn a_large_message_arrives_in_pieces_that_tell_its_size_first() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    let message: Bytes = (0..1_000_003u32).map(|i| i as u8).collect::<Vec<_>>().into();
    let mut rest = message.clone();
    while !rest.is_empty() {
        rest = pair.send_up(stream, rest);
        pair.settle();
    }
    let mut left = message.len() as u64;
    for (n, event) in pair.at_proxy.iter().enumerate() {
        let Event::Data { bytes, remaining, first, .. } = event else { panic!("{event:?}") };
        assert_eq!(*first, n == 0);
        assert!(bytes.len() <= MAX_PIECE && !bytes.is_empty());
        assert_eq!(*remaining + bytes.len() as u64, left);
        left = *remaining;
    }
    assert_eq!(left, 0);
    assert_eq!(Pair::received(&mut pair.at_proxy, stream), message);
}

#[test]
fn a_streams_outbox_holds_two_pieces_and_then_takes_nothing() {
    let mut proxy = Alone::proxy(Settings::default());
    proxy.feed(1, FrameKind::Open(Box::new(open("/a.B/C"))));
    proxy.feed(1, FrameKind::Credit(1 << 20));
    for _ in 0..2 {
        assert_eq!(proxy.session.capacity(1), Some(MAX_PIECE));
        proxy.session.send(1, vec![0; MAX_PIECE].into(), 0, false);
    }
    assert_eq!(proxy.session.capacity(1), None);
    proxy.frames();
    assert_eq!(proxy.session.capacity(1), Some(MAX_PIECE), "draining makes room");
}

#[test]
fn tiny_messages_fill_the_outbox_by_their_overhead() {
    let mut proxy = Alone::proxy(Settings::default());
    proxy.feed(1, FrameKind::Open(Box::new(open("/a.B/C"))));
    let mut count = 0;
    while proxy.session.capacity(1).is_some() {
        proxy.session.send(1, Bytes::new(), 0, false);
        count += 1;
    }
    assert!(count <= 2 * MAX_PIECE / FRAME_OVERHEAD as usize, "{count} wait");
    assert_eq!(proxy.frames().len(), count + 1 - 1, "all of them leave");
    assert!(proxy.session.streams[&1].outbound.data.capacity() <= 64, "and their room goes back");
}

#[test]
fn capacity_with_little_credit_is_little_and_piece_waits_for_more() {
    let mut client = Alone::client(Settings::default());
    let stream = client.session.open(open("/a.B/C")).expect("room");
    client.frames();
    // 65,536 = 3 × 16,416 + 16,288: leave 132, which is 100 and the overhead.
    for len in [16_384, 16_384, 16_384, 16_124] {
        client.session.send(stream, vec![0; len].into(), 0, false);
        client.frames();
    }
    assert_eq!(client.session.capacity(stream), Some(100));
    assert_eq!(client.session.piece(stream, 100), Some(100), "all that is at hand");
    assert_eq!(client.session.piece(stream, 101), None, "no silly little piece");
    client.session.send(stream, vec![0; 100].into(), 0, false);
    client.frames();
    assert_eq!(client.session.capacity(stream), None, "not even an empty message");
    client.feed(stream, FrameKind::Credit(u64::from(FRAME_OVERHEAD)));
    assert_eq!(client.session.capacity(stream), Some(0), "an empty message only");
    assert_eq!(client.session.piece(stream, 0), Some(0));
}

#[test]
fn a_message_larger_than_the_limit_is_refused_at_its_first_piece() {
    let mut proxy = Alone::proxy(Settings { max_message: 1000, ..Settings::default() });
    let (large, other) = (proxy.opened(), proxy.opened());
    proxy.feed(large, data(b"x", 1000));
    assert_eq!(
        proxy.events(),
        [Event::Cancelled { stream: large, code: Code::RESOURCE_EXHAUSTED, reason: "message_too_large" }]
    );
    let sent = proxy.frames();
    let [Frame { stream: 1, kind: FrameKind::Trailers(end) }] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(
        (end.code, end.message.as_str()),
        (8, "a message of 1001 bytes is larger than the limit of 1000 bytes")
    );
    assert_eq!(end.metadata, [text("bidiway-origin", "proxy")]);
    proxy.feed(other, FrameKind::Data { bytes: vec![0; 1000].into(), remaining: 0, last: false });
    assert_eq!(proxy.events().len(), 1, "the other stream goes on");
    proxy.feed(other, data(b"x", u64::MAX));
    assert_eq!(
        proxy.events(),
        [Event::Cancelled { stream: other, code: Code::RESOURCE_EXHAUSTED, reason: "message_too_large" }]
    );
}

#[test]
fn pieces_of_different_streams_mix_but_messages_do_not() {
    let mut proxy = Alone::proxy(Settings::default());
    let (a, b) = (proxy.opened(), proxy.opened());
    proxy.feed(a, data(b"a1", 2));
    proxy.feed(b, data(b"b1", 1));
    proxy.feed(a, data(b"a2", 0));
    proxy.feed(b, data(b"2", 0));
    let firsts: Vec<bool> =
        proxy.events().iter().map(|e| matches!(e, Event::Data { first: true, .. })).collect();
    assert_eq!(firsts, [true, true, false, false]);
}
