//! Sessions that lose their carrier and go on with another.

use super::*;

/// Messages as they came, each once; the pieces of one are put together.
fn messages(events: &mut std::collections::VecDeque<Event>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut message = Vec::new();
    events.retain(|event| match event {
        Event::Data { bytes, remaining, .. } => {
            message.extend_from_slice(bytes);
            if *remaining == 0 {
                all.push(std::mem::take(&mut message));
            }
            false
        }
        _ => true,
    });
    all
}

#[test]
fn what_was_on_its_way_at_the_cut_is_sent_again_in_both_directions() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.send_up(stream, Bytes::from_static(b"one"));
    pair.send_down(stream, Bytes::from_static(b"ONE"));
    pair.settle();
    pair.send_up(stream, Bytes::from_static(b"two"));
    pair.send_down(stream, Bytes::from_static(b"TWO"));
    let mut packet = BytesMut::new();
    while pair.client.poll_packet(&mut packet, 1) || pair.proxy.poll_packet(&mut packet, 1) {}
    pair.cut();
    pair.resume("second");
    pair.send_up(stream, Bytes::from_static(b"three"));
    pair.send_down(stream, Bytes::from_static(b"THREE"));
    pair.settle();
    pair.send_up(stream, Bytes::from_static(b"three"));
    pair.settle();
    assert_eq!(messages(&mut pair.at_proxy), [&b"one"[..], b"two", b"three"]);
    assert_eq!(messages(&mut pair.at_client), [&b"ONE"[..], b"TWO", b"THREE"]);
    assert_eq!(pair.at_client, [Event::Resumed { frames: 1, bytes: 9 }, Event::Writable { stream }]);
}
