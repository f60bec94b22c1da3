//! Sessions that lose their carrier and go on with another.

use super::*;
use crate::{
    session::{MAX_PIECE, Refusal, UNPROCESSED_HEADER, Violation},
    wire::{Code, v1::ResumeFailure},
};

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

/// Both sides put what they have into packets, which get lost.
fn send_into_the_void(pair: &mut Pair) {
    for session in [&mut pair.client, &mut pair.proxy] {
        while session.poll_packet(&mut BytesMut::new(), 1) {}
    }
}

fn resumed(events: &std::collections::VecDeque<Event>) -> Vec<(u64, usize)> {
    let of = |event: &Event| match event {
        Event::Resumed { frames, bytes } => Some((*frames, *bytes)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn tokens(session: &Session) -> Vec<&[u8]> {
    session.resume_tokens().map(|token| &token[..]).collect()
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
    send_into_the_void(&mut pair);
    pair.cut();
    pair.resume("second");
    pair.send_down(stream, Bytes::from_static(b"THREE"));
    pair.settle();
    pair.send_up(stream, Bytes::from_static(b"three"));
    pair.settle();
    assert_eq!(messages(&mut pair.at_proxy), [&b"one"[..], b"two", b"three"]);
    assert_eq!(messages(&mut pair.at_client), [&b"ONE"[..], b"TWO", b"THREE"]);
    assert_eq!((resumed(&pair.at_client), resumed(&pair.at_proxy)), (vec![(1, 9)], vec![(1, 9)]));
}

#[test]
fn a_call_whose_open_was_lost_is_opened_once() {
    let mut pair = Pair::resumable();
    let stream = pair.client.open(open("/a.B/C")).expect("room");
    pair.send_up(stream, Bytes::from_static(b"x"));
    for token in ["second", "third", "fourth"] {
        send_into_the_void(&mut pair);
        pair.cut();
        pair.resume(token);
    }
    pair.settle();
    let opened = pair.at_proxy.iter().filter(|event| matches!(event, Event::Opened { .. })).count();
    assert_eq!((opened, messages(&mut pair.at_proxy)), (1, vec![b"x".to_vec()]));
}

#[test]
fn a_large_message_goes_on_in_the_middle_and_its_payload_is_not_copied() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    let message: Bytes = (0..60_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    let rest = pair.send_down(stream, message.clone());
    let mut packet = BytesMut::new();
    pair.proxy.poll_packet(&mut packet, 1);
    pair.client.handle_packet(packet.freeze(), pair.now);
    pair.cut();
    let kept = pair.proxy.resume.as_ref().expect("resumable").replay.held();
    assert!((MAX_PIECE..MAX_PIECE + 20).contains(&kept), "one piece and its head: {kept}");
    assert_eq!(pair.send_down(stream, rest.clone()).len(), rest.len(), "nothing is taken without a carrier");
    pair.resume("second");
    pair.settle();
    let mut rest = rest;
    while !rest.is_empty() {
        rest = pair.send_down(stream, rest);
        pair.settle();
    }
    assert_eq!(messages(&mut pair.at_client), [&message[..]]);
}

#[test]
fn the_old_token_is_good_until_the_client_has_shown_that_it_knows_the_new_one() {
    let mut pair = Pair::resumable();
    assert_eq!(tokens(&pair.proxy), [b"first"]);
    pair.cut();
    pair.resume("second");
    assert_eq!(tokens(&pair.proxy), [&b"second"[..], b"first"]);
    send_into_the_void(&mut pair); // Welcome among it
    pair.cut();
    pair.resume("third");
    assert_eq!(tokens(&pair.proxy), [&b"second"[..], b"first"], "the same is announced again");
    pair.settle();
    assert_eq!(tokens(&pair.proxy), [b"second"]);
    assert!(pair.at_proxy.contains(&Event::TokenRetired { token: Bytes::from_static(b"first") }));
    pair.cut();
    pair.resume("fourth");
    assert_eq!(tokens(&pair.proxy), [&b"fourth"[..], b"second"], "who comes with a token knows it");
}

#[test]
fn a_new_carrier_takes_over_while_the_old_one_seems_alive() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.send_down(stream, Bytes::from_static(b"lost"));
    send_into_the_void(&mut pair);
    assert!(pair.client.detach(pair.now));
    pair.resume("second"); // the proxy has noticed nothing
    pair.settle();
    assert_eq!(messages(&mut pair.at_client), [b"lost"]);
}

#[test]
fn a_hello_that_contradicts_the_books_leaves_the_session_as_it_was() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.send_down(stream, Bytes::from_static(b"x"));
    pair.settle();
    pair.pass(Duration::from_secs(20)); // a Ping, and the Ack
    assert!(pair.client.detach(pair.now));
    let (_, good) = pair.ask();
    let mut attach = |hello| {
        let result = pair.proxy.attach(hello, Bytes::from_static(b"next"), pair.now);
        pair.proxy.check_invariants();
        result
    };
    let wrong = |received| v1::Hello { received, ..good.clone() };
    let backwards = Violation::ReceivedBackwards { received: 0, acked: 1 };
    assert_eq!(attach(wrong(0)), Err(Refusal::Violation(backwards)));
    let beyond = Violation::ReceivedBeyondSent { received: 2, sent: 1 };
    assert_eq!(attach(wrong(2)), Err(Refusal::Violation(beyond)));
    let guessed = v1::Hello { resume_token: Bytes::from_static(b"guess"), ..good.clone() };
    assert_eq!(attach(guessed), Err(Refusal::Failure(ResumeFailure::UnknownToken)));
    assert_eq!(attach(good), Ok(()));
    assert_eq!(tokens(&pair.proxy), [&b"next"[..], b"first"]);
}

#[test]
fn a_refused_carrier_begins_a_new_session_and_every_old_call_ends_once() {
    let mut pair = Pair::resumable();
    let sent = pair.opened();
    pair.cut();
    let unsent = pair.client.open(open("/a.B/C")).expect("room");
    let (mut fresh, _) = pair.ask();
    fresh.refuse_resume(Refusal::Failure(ResumeFailure::Expired), pair.now);
    pair.proxy = fresh;
    pair.settle();
    let mut ended = Vec::new();
    while let Some(Event::Ended { stream, trailers }) = pair.at_client.front().cloned() {
        assert_eq!(Code(trailers.code), Code::UNAVAILABLE);
        assert_eq!(trailers.message, "the session ended: it could not be resumed (expired)");
        let unprocessed = trailers.metadata.iter().any(|entry| entry.name == UNPROCESSED_HEADER);
        ended.push((stream, unprocessed));
        pair.at_client.pop_front();
    }
    assert_eq!(ended, [(sent, false), (unsent, true)], "what never left was not processed");
    assert!(matches!(pair.at_client.pop_front(), Some(Event::Welcomed(w)) if w.resume_failure == 2));
    assert!(matches!(pair.at_proxy.pop_front(), Some(Event::Greeted { .. })));
    assert_eq!(pair.opened(), 1, "numbers begin again");
    pair.cut();
    pair.resume("second");
    pair.settle();
    assert!(pair.client.is_resumable(), "the new session can be resumed as well");
}

#[test]
fn a_violation_on_the_new_carrier_closes_it() {
    let mut pair = Pair::resumable();
    pair.cut();
    let (mut fresh, _) = pair.ask();
    let violation = Violation::ReceivedBeyondSent { received: 2, sent: 1 };
    fresh.refuse_resume(Refusal::Violation(violation), pair.now);
    fresh.check_invariants();
    assert!(matches!(fresh.poll_event(), Some(Event::Closed(reason)) if reason.close_code == 4003));
    assert!(!fresh.poll_packet(&mut BytesMut::new(), usize::MAX), "there was no Welcome");
}

#[test]
fn the_grace_ends_a_session_without_a_carrier_on_both_sides() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.cut();
    assert_eq!(pair.client.poll_timeout(), Some(pair.now + Duration::from_secs(30)), "nothing else is due");
    assert_eq!(pair.proxy.poll_timeout(), Some(pair.now + Duration::from_secs(30)));
    pair.pass(Duration::from_secs(29));
    assert_eq!((pair.client.open_streams(), pair.proxy.open_streams()), (1, 1));
    pair.pass(Duration::from_secs(1));
    let cancelled = Event::Cancelled { stream, code: Code::CANCELLED, reason: "resume_expired" };
    assert_eq!(pair.at_proxy.pop_front(), Some(cancelled));
    assert!(matches!(pair.at_proxy.pop_front(), Some(Event::Closed(r)) if r.label == "resume_expired"));
    assert!(matches!(pair.at_client.pop_front(), Some(Event::Ended { trailers, .. }) if trailers.code == 14));
    assert!(matches!(pair.at_client.pop_front(), Some(Event::Closed(r)) if r.label == "resume_expired"));
    assert!(tokens(&pair.proxy).is_empty());
}

#[test]
fn an_attempt_to_come_back_does_not_extend_the_clients_grace() {
    let mut pair = Pair::resumable();
    pair.cut();
    for _ in 0..2 {
        pair.client.reattach(pair.now);
        pair.now += Duration::from_secs(10);
        pair.client.handle_timeout(pair.now);
        assert!(
            matches!(pair.client.poll_event(), Some(Event::Detached(reason)) if reason.label == "silent")
        );
    }
    pair.client.reattach(pair.now);
    pair.now += Duration::from_secs(10);
    pair.client.handle_timeout(pair.now);
    assert!(pair.client.is_closed());
}

#[test]
fn silence_parks_a_session_that_can_be_resumed() {
    let mut pair = Pair::resumable();
    pair.opened();
    pair.now += Duration::from_secs(40);
    pair.proxy.handle_timeout(pair.now);
    assert!(matches!(pair.proxy.poll_event(), Some(Event::Detached(reason)) if reason.close_code == 4014));
    assert_eq!(pair.proxy.poll_event(), None);
    assert_eq!(pair.proxy.poll_timeout(), Some(pair.now + Duration::from_secs(30)));
}

#[test]
fn without_a_token_the_carrier_takes_the_session_with_it() {
    let mut pair = Pair::greeted();
    pair.opened();
    assert!(!pair.client.detach(pair.now) && !pair.proxy.detach(pair.now));
    assert!(pair.client.is_closed() && pair.proxy.is_closed());
    assert_eq!(pair.proxy.held_bytes(), 0, "nothing was kept");
}

#[test]
fn a_welcome_that_never_left_is_no_reason_to_wait() {
    let mut proxy = Alone::new(Side::Proxy, Settings::default());
    proxy.session.announce_resume(Bytes::from_static(b"token"));
    proxy.feed(0, FrameKind::Hello(Box::new(v1::Hello { resumable: true, ..hello() })));
    assert!(!proxy.session.detach(proxy.now));
}

#[test]
fn a_full_buffer_stops_data_until_the_ack_and_drops_nothing() {
    let client = Settings { resumable: true, stream_credit: 1 << 20, ..Settings::default() };
    let mut pair = Pair::with(client, Settings { replay_limit: 128 * 1024, ..Settings::default() });
    pair.proxy.announce_resume(Bytes::from_static(b"first"));
    let mut pair = pair.and_greeted();
    let stream = pair.opened();
    let message = Bytes::from(vec![7; 300_000]);
    let mut rest = message.clone();
    let mut packets = Vec::new();
    loop {
        rest = pair.send_down(stream, rest);
        let mut packet = BytesMut::new();
        if !pair.proxy.poll_packet(&mut packet, 64 * 1024) {
            break;
        }
        packets.push(packet.freeze());
    }
    let sent: usize = packets.iter().map(Bytes::len).sum();
    assert!((128 * 1024..128 * 1024 + MAX_PIECE + 20).contains(&sent), "{sent} bytes before the Ack");
    pair.proxy.consumed(stream, 0, 0);
    for packet in packets {
        pair.client.handle_packet(packet, pair.now);
    }
    pair.settle();
    while !rest.is_empty() {
        rest = pair.send_down(stream, rest);
        pair.settle();
    }
    assert_eq!(messages(&mut pair.at_client), [&message[..]]);
}

#[test]
fn acknowledged_frames_are_not_kept() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    for n in 0..200_u8 {
        pair.send_up(stream, Bytes::from(vec![n; 500]));
        pair.settle();
    }
    assert!(pair.client.held_bytes() < 64 * 600, "{}", pair.client.held_bytes());
    pair.pass(Duration::from_secs(20));
    assert_eq!((pair.client.held_bytes(), pair.proxy.held_bytes()), (0, 0), "the Pong brought the rest");
}

#[test]
fn headers_and_trailers_that_wait_for_a_carrier_count_among_what_is_kept() {
    let mut pair = Pair::resumable();
    let streams: Vec<_> = (0..10).map(|_| pair.opened()).collect();
    pair.pass(Duration::from_secs(20)); // the Pong brings the Ack of all that was sent
    pair.cut();
    assert_eq!(pair.proxy.held_bytes(), 0);
    let entry = |len: usize| v1::Metadata {
        name: "x-a".to_owned(),
        value: Some(v1::metadata::Value::Text("v".repeat(len))),
    };
    let headers = 10_000;
    for &stream in &streams {
        pair.proxy.send_headers(stream, v1::Headers { metadata: vec![entry(headers - 35)] });
    }
    assert_eq!(pair.proxy.held_bytes(), 10 * headers);
    for &stream in &streams {
        let (message, details) = ("m".repeat(100), vec![1; 200].into());
        let metadata = vec![entry(1000 - 35)];
        pair.proxy.end(stream, v1::Trailers { message, details, metadata, ..v1::Trailers::default() });
    }
    assert_eq!(pair.proxy.held_bytes(), 10 * (headers + 32 + 1300));
    pair.resume("second");
    pair.settle();
    pair.pass(Duration::from_secs(20));
    assert_eq!(pair.proxy.held_bytes(), 0);
}

#[test]
fn a_parked_session_hears_of_go_away_when_it_comes_back() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.cut();
    pair.proxy.go_away(Code::UNAVAILABLE, "restart", 5);
    pair.resume("second");
    pair.settle();
    assert!(pair.at_client.iter().any(|event| matches!(event, Event::GoAway(g) if g.message == "restart")));
    pair.proxy.end(stream, trailers(0));
    pair.settle();
    assert!(pair.proxy.is_closed(), "and drains");
}

#[test]
fn a_drained_session_waits_until_its_last_trailers_have_arrived() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.proxy.go_away(Code::UNAVAILABLE, "restart", 5);
    pair.proxy.end(stream, trailers(0));
    send_into_the_void(&mut pair);
    pair.cut();
    assert!(!pair.proxy.is_closed(), "the client may come back for them");
    pair.resume("second");
    pair.settle();
    let ended =
        pair.at_client.iter().any(|e| matches!(e, Event::Ended { trailers, .. } if trailers.code == 0));
    assert!(ended && pair.proxy.is_closed());
}

#[test]
fn the_hello_of_a_resume_brings_the_latest_defaults() {
    let mut pair = Pair::resumable();
    pair.client.refresh(vec![text("authorization", "lost with the carrier")]);
    send_into_the_void(&mut pair);
    pair.cut();
    pair.client.refresh(vec![text("authorization", "new")]);
    pair.resume("second");
    pair.settle();
    pair.client.open(open("/a.B/C")).expect("room");
    pair.settle();
    let Some(Event::Opened { open, .. }) = pair.at_proxy.pop_back() else { panic!("opened") };
    assert_eq!(open.metadata, [text("authorization", "new")]);
}

#[test]
fn credit_goes_on_where_it_was() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    pair.eager = false;
    while pair.send_up(stream, Bytes::from(vec![1; 10_000])).is_empty() {
        pair.settle();
    }
    let credit = |pair: &Pair| pair.client.streams[&stream].outbound.credit;
    let before = credit(&pair);
    pair.cut();
    pair.resume("second");
    pair.settle();
    assert_eq!(credit(&pair), before, "Welcome adds nothing a second time");
    pair.proxy.consumed(stream, 200_000, 20);
    send_into_the_void(&mut pair);
    pair.cut();
    pair.resume("third");
    pair.settle();
    assert_eq!(credit(&pair), before + 200_000 + 20 * 32, "Credit that was lost comes once");
}

#[test]
fn an_ack_may_not_overtake_what_is_sent_again() {
    let mut pair = Pair::resumable();
    let stream = pair.opened();
    for _ in 0..3 {
        pair.proxy.send(stream, Bytes::from_static(b"x"), 0, false);
    }
    send_into_the_void(&mut pair);
    pair.cut();
    pair.resume("second");
    let mut packet = BytesMut::new();
    pair.proxy.poll_packet(&mut packet, 1); // Welcome, and nothing of the three
    let mut ack = BytesMut::new();
    frame::encode(&Frame { stream: 0, kind: FrameKind::Ack(3) }, &mut ack);
    pair.proxy.handle_packet(ack.freeze(), pair.now);
    assert!(pair.proxy.is_closed());
}

#[test]
fn credit_passes_a_full_buffer_but_not_without_end() {
    let proxy = Settings { stream_credit: 64 * 1024, replay_limit: 128 * 1024, ..Settings::default() };
    let mut one = Alone::new(Side::Proxy, proxy);
    one.session.announce_resume(Bytes::from_static(b"first"));
    let hello = v1::Hello { resumable: true, stream_credit: 1 << 20, ..hello() };
    one.feed(0, FrameKind::Hello(Box::new(hello)));
    one.events();
    let stream = one.opened();
    let full = loop {
        one.session.piece(stream, MAX_PIECE).expect("room in the outbox");
        one.session.send(stream, vec![0; MAX_PIECE].into(), 0, false);
        if one.frames().iter().all(|frame| frame.stream == 0) {
            break one.session.resume.as_ref().expect("resumable").replay.held();
        }
    };
    let mut credits = 0;
    for _ in 0..12_000 {
        let granted = one.session.streams[&stream].inbound.granted;
        if granted < 8_032 {
            break;
        }
        one.session.handle_packet(data_packet(stream, 8_000), one.now);
        one.events();
        one.session.consumed(stream, 8_000, 1);
        let mut packet = BytesMut::new();
        one.session.poll_packet(&mut packet, usize::MAX);
        let frames = decode(packet.freeze());
        credits += frames.iter().filter(|frame| matches!(frame.kind, FrameKind::Credit(_))).count();
    }
    let kept = one.session.resume.as_ref().expect("resumable").replay.held() - full;
    assert!(credits > 1000, "the client's data goes on: {credits} Credit frames");
    assert!(kept <= 16 * 1024 + 64, "{kept} bytes of Credit that nobody acknowledges");
    assert!(one.session.streams[&stream].inbound.granted < 8_032, "and then it stops");
}

fn data_packet(stream: StreamId, len: usize) -> Bytes {
    let mut packet = BytesMut::new();
    frame::encode_data(stream, &vec![0; len], 0, false, &mut packet);
    packet.freeze()
}
