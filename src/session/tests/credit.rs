use super::*;
use crate::session::{FRAME_OVERHEAD, MIN_CREDIT, MIN_PIECE};

#[test]
fn each_frame_costs_its_length_and_the_overhead() {
    let mut pair = Pair::greeted();
    let stream = pair.opened();
    let before = pair.client.streams[&stream].outbound.credit;
    pair.client.send(stream, Bytes::from_static(b"12345"), 0, false);
    assert_eq!(pair.client.streams[&stream].outbound.credit, before - 5 - FRAME_OVERHEAD);
}

#[test]
fn credit_comes_back_when_half_of_the_window_was_consumed() {
    let mut proxy = Alone::proxy(Settings { stream_credit: 65_536, ..Settings::default() });
    let stream = proxy.opened();
    let piece = |len: usize| FrameKind::Data { bytes: vec![0; len].into(), remaining: 0, last: false };
    proxy.feed(stream, piece(16_000));
    proxy.feed(stream, piece(16_000));
    proxy.session.consumed(stream, 32_000, 2);
    assert_eq!(proxy.frames(), [], "32,064 is not yet half of 65,536");
    proxy.feed(stream, piece(1_000));
    proxy.session.consumed(stream, 1_000, 1);
    assert_eq!(proxy.frames(), [Frame { stream, kind: FrameKind::Credit(33_096) }]);
}

#[test]
fn credit_frames_of_a_stream_merge_while_they_wait() {
    let mut proxy = Alone::proxy(Settings { stream_credit: 65_536, ..Settings::default() });
    let stream = proxy.opened();
    for _ in 0..3 {
        proxy.feed(stream, FrameKind::Data { bytes: vec![0; 16_352].into(), remaining: 0, last: false });
        proxy.session.consumed(stream, 16_352, 1);
        proxy.session.check_invariants();
    }
    assert_eq!(proxy.frames(), [Frame { stream, kind: FrameKind::Credit(3 * 16_384) }]);
}

#[test]
fn no_credit_is_returned_after_the_last_message() {
    let mut proxy = Alone::proxy(Settings { stream_credit: 65_536, ..Settings::default() });
    let stream = proxy.opened();
    proxy.feed(stream, FrameKind::Data { bytes: vec![0; 50_000].into(), remaining: 0, last: true });
    proxy.session.consumed(stream, 50_000, 1);
    assert_eq!(proxy.frames(), []);
}

#[test]
fn a_stalled_reader_stalls_its_own_stream_and_no_other() {
    let mut pair = Pair::greeted();
    pair.eager = false;
    let (stalled, free) = (pair.opened(), pair.opened());
    let mut rest = Bytes::from(vec![7; 1 << 20]);
    let mut passed = 0;
    for _ in 0..64 {
        rest = pair.send_down(stalled, rest);
        let left = pair.send_down(free, Bytes::from(vec![8; 10_000]));
        assert!(left.is_empty(), "the free stream flows");
        pair.settle();
        let got = Pair::received(&mut pair.at_client, free).len();
        pair.client.consumed(free, got, 1);
        passed += got;
    }
    assert_eq!(passed, 640_000);
    assert!(Pair::received(&mut pair.at_client, stalled).len() <= 256 * 1024, "no more than the credit");
    assert_eq!(pair.proxy.piece(stalled, rest.len()), None);
}

/// The two rules together: a receiver keeps back less than half of its window, and a sender never waits for more
/// than MIN_PIECE. Every window (odd ones too) with every message size, tiny to much larger than the window.
#[test]
fn no_window_and_no_message_size_can_deadlock() {
    let windows =
        [MIN_CREDIT, MIN_CREDIT + 1, 16_415, 16_416, 16_417, 20_011, 65_536, 65_537, 131_071, 262_144];
    let sizes = [
        0, 1, 31, 32, 33, 991, 992, 993, 1023, 1024, 1025, 1056, 8_159, 8_192, 16_351, 16_352, 16_384,
        65_536, 300_007,
    ];
    for window in windows {
        for size in sizes {
            let settings = Settings { stream_credit: window, ..Settings::default() };
            let mut pair = Pair::with(settings.clone(), settings).and_greeted();
            let stream = pair.opened();
            let messages = (3 * window as usize / (size + 32)).clamp(3, 2000);
            for up in [true, false] {
                let mut received = 0;
                for _ in 0..messages {
                    let mut rest = Bytes::from(vec![1; size]);
                    loop {
                        let ready = if up { &mut pair.client } else { &mut pair.proxy }
                            .piece(stream, rest.len())
                            .is_some();
                        if !ready {
                            pair.settle();
                            let session = if up { &mut pair.client } else { &mut pair.proxy };
                            assert!(
                                session.piece(stream, rest.len()).is_some(),
                                "deadlock: window {window}, message {size}, {} left",
                                rest.len()
                            );
                        }
                        rest = if up { pair.send_up(stream, rest) } else { pair.send_down(stream, rest) };
                        if rest.is_empty() {
                            break;
                        }
                    }
                }
                pair.settle();
                let events = if up { &mut pair.at_proxy } else { &mut pair.at_client };
                received += Pair::received(events, stream).len();
                assert_eq!(received, messages * size, "window {window}, message {size}");
                events.clear();
            }
        }
    }
}

#[test]
fn the_proof_needs_these_numbers() {
    // Everything consumed: less than half the window is owed, so more than half is there to be used.
    assert!(MIN_PIECE as u32 + FRAME_OVERHEAD <= MIN_CREDIT / 2);
}

#[test]
fn writable_comes_once_when_credit_was_short() {
    let mut client = Alone::client(Settings::default());
    let stream = client.session.open(open("/a.B/C")).expect("room");
    client.frames();
    let mut rest = Bytes::from(vec![1; 100_000]);
    while client.session.piece(stream, rest.len()).is_some() {
        rest = pair::feed(&mut client.session, stream, rest);
        client.frames();
    }
    client.events();
    client.feed(stream, FrameKind::Credit(40_000));
    client.feed(stream, FrameKind::Credit(40_000));
    assert_eq!(client.events(), [Event::Writable { stream }]);
}
