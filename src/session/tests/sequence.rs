use super::*;

#[test]
fn without_a_resume_token_nobody_sends_ack() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    for _ in 0..500 {
        pair.send_up(stream, Bytes::from_static(b"x"));
        pair.settle();
    }
    pair.pass(Duration::from_secs(60));
    assert_eq!((pair.client.sequence.acked, pair.proxy.sequence.acked), (0, 0));
    assert_eq!(pair.client.sequence.sent, pair.proxy.sequence.received, "but both count");
}

#[test]
fn with_a_token_both_sides_acknowledge_by_frames_bytes_and_time() {
    let mut pair = Pair::new();
    pair.client = Session::new(Side::Client, Settings { resumable: true, ..Settings::default() }, pair.now);
    pair.proxy.announce_resume(Bytes::from_static(b"token"));
    let mut pair = pair.and_greeted();
    let stream = pair.opened();
    pair.eager = false;
    for _ in 0..63 {
        pair.client.send(stream, Bytes::new(), 0, false);
        pair.settle();
    }
    assert_eq!(pair.client.sequence.acked, 64, "after 64 frames");
    for _ in 0..5 {
        pair.send_up(stream, vec![0; 16_000].into());
        pair.settle();
    }
    assert_eq!(pair.client.sequence.acked, 69, "after 64 KiB");
    pair.send_up(stream, Bytes::from_static(b"x"));
    pair.send_down(stream, Bytes::from_static(b"y"));
    pair.settle();
    assert_eq!((pair.client.sequence.acked, pair.proxy.sequence.acked), (69, 0));
    pair.pass(Duration::from_secs(20));
    assert_eq!(
        (pair.client.sequence.acked, pair.proxy.sequence.acked),
        (70, 1),
        "with the next ping and pong"
    );
}

#[test]
fn an_ack_of_what_was_sent_is_accepted() {
    let mut proxy = Alone::proxy(Settings::default());
    let stream = proxy.opened();
    proxy.session.send(stream, Bytes::new(), 0, false);
    proxy.frames();
    for acked in [0, 1, 1] {
        proxy.feed(0, FrameKind::Ack(acked));
    }
    assert_eq!(proxy.events(), []);
}
