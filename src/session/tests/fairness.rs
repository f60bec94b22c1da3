use super::*;

#[test]
fn streams_take_turns_piece_by_piece() {
    let mut proxy = Alone::proxy(Settings::default());
    let streams: Vec<StreamId> = (0..3).map(|_| proxy.opened()).collect();
    for &stream in &streams {
        pair::feed(&mut proxy.session, stream, vec![0; 32 * 1024].into());
    }
    let turns: Vec<StreamId> = proxy.frames().iter().map(|f| f.stream).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_small_message_passes_a_large_one_after_one_piece() {
    let mut proxy = Alone::proxy(Settings::default());
    let (large, small) = (proxy.opened(), proxy.opened());
    pair::feed(&mut proxy.session, large, vec![0; 1 << 20].into());
    proxy.session.send(small, Bytes::from_static(b"quick"), 0, false);
    let mut packet = BytesMut::new();
    let mut order = Vec::new();
    while proxy.session.poll_packet(&mut packet, 1) {
        order.extend(decode(packet.split().freeze()).iter().map(|f| f.stream));
    }
    assert_eq!(order, [large, small, large]);
}

#[test]
fn frames_of_the_session_and_credit_go_before_data() {
    let mut proxy = Alone::proxy(Settings { stream_credit: 65_536, ..Settings::default() });
    let (sending, receiving) = (proxy.opened(), proxy.opened());
    pair::feed(&mut proxy.session, sending, vec![0; 32 * 1024].into());
    proxy.feed(receiving, FrameKind::Data { bytes: vec![0; 40_000].into(), remaining: 0, last: false });
    proxy.session.consumed(receiving, 40_000, 1);
    proxy.feed(0, FrameKind::Ping(7));
    let sent = proxy.frames();
    assert_eq!(sent[0], Frame { stream: 0, kind: FrameKind::Pong(7) });
    assert_eq!(sent[1], Frame { stream: receiving, kind: FrameKind::Credit(40_032) });
    assert!(sent[2..].iter().all(|f| f.stream == sending));
}

#[test]
fn a_packet_ends_at_its_target_or_one_piece_later() {
    let mut proxy = Alone::proxy(Settings::default());
    for _ in 0..10 {
        let stream = proxy.opened();
        pair::feed(&mut proxy.session, stream, vec![0; 32 * 1024].into());
    }
    let mut packet = BytesMut::new();
    let mut packets = 0;
    while proxy.session.poll_packet(&mut packet, 32 * 1024) {
        assert!(packet.len() <= 48 * 1024 + 64, "{}", packet.len());
        packet.clear();
        packets += 1;
    }
    assert_eq!(packets, 10);
}
