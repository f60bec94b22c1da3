use super::*;
use crate::wire::Code;

const TICK: Duration = Duration::from_secs(20);

#[test]
fn the_proxy_pings_at_every_interval_and_the_client_answers() {
    let mut pair = Pair::greeted();
    pair.pass(TICK * 100);
    assert_eq!((pair.at_client.len(), pair.at_proxy.len()), (0, 0), "a quiet session lives");
    assert_eq!(pair.proxy.sequence.sent, 0);
}

#[test]
fn a_ping_is_answered_with_the_same_number_and_a_flood_with_the_latest() {
    let mut client = Alone::client(Settings::default());
    for number in 0..1000 {
        client.feed(0, FrameKind::Ping(number));
    }
    assert_eq!(client.frames(), [Frame { stream: 0, kind: FrameKind::Pong(999) }]);
    client.feed(0, FrameKind::Pong(12345)); // never asked for
    assert_eq!((client.events(), client.frames()), (vec![], vec![]));
}

#[test]
fn a_silent_carrier_is_dead_after_two_intervals() {
    let mut proxy = Alone::proxy(Settings::default());
    let stream = proxy.opened();
    proxy.pass(TICK);
    assert_eq!(proxy.frames(), [Frame { stream: 0, kind: FrameKind::Ping(1) }]);
    proxy.pass(TICK - Duration::from_millis(1));
    assert_eq!(proxy.events(), []);
    proxy.pass(Duration::from_millis(1));
    let events = proxy.events();
    let [Event::Cancelled { stream: gone, code: Code::CANCELLED, reason: "silent" }, Event::Closed(reason)] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (*gone, reason.label, reason.close_code, reason.code),
        (stream, "silent", 4014, Code::UNAVAILABLE)
    );
}

#[test]
fn time_in_which_the_carrier_was_not_read_is_no_silence() {
    let mut proxy = Alone::proxy(Settings::default());
    proxy.opened();
    proxy.pass(TICK);
    proxy.frames();
    let since = proxy.now;
    proxy.pass(TICK / 2);
    proxy.session.handle_unread(since, proxy.now);
    proxy.pass(TICK - Duration::from_millis(1));
    assert_eq!(proxy.events(), [], "fifty seconds have passed, but less than forty of silence");
    proxy.pass(Duration::from_millis(1));
    assert!(proxy.session.is_closed());
}

#[test]
fn the_client_finds_out_too() {
    let mut client = Alone::client(Settings::default());
    client.session.open(open("/a.B/C")).expect("room");
    client.pass(TICK * 2 - Duration::from_millis(1));
    assert_eq!(client.events(), []);
    client.pass(Duration::from_millis(1));
    let events = client.events();
    assert!(
        matches!(&events[..], [Event::Ended { trailers, .. }, Event::Closed(r)] if trailers.code == 14 && r.label == "silent"),
        "{events:?}"
    );
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut proxy = Alone::proxy(Settings::default());
    for _ in 0..10 {
        proxy.pass(TICK * 2 - Duration::from_millis(1));
        proxy.session.handle_activity(proxy.now);
        proxy.pass(TICK * 2 - Duration::from_millis(1));
        proxy.feed_bytes(Bytes::new());
    }
    assert_eq!(proxy.events(), []);
}

#[test]
fn hello_has_to_come_in_time() {
    let mut proxy = Alone::new(Side::Proxy, Settings::default());
    assert_eq!(proxy.session.poll_timeout(), Some(proxy.now + Duration::from_secs(10)));
    proxy.session.handle_activity(proxy.now);
    proxy.pass(Duration::from_secs(10));
    let reason = proxy.closed().expect("closed");
    assert_eq!((reason.label, reason.close_code), ("hello_timeout", 4004));
}

#[test]
fn welcome_has_to_come_in_time() {
    let mut client = Alone::new(Side::Client, Settings::default());
    client.frames();
    client.pass(Duration::from_secs(10));
    let reason = client.closed().expect("closed");
    assert_eq!((reason.label, reason.close_code), ("silent", 4014));
}

#[test]
fn the_timeout_is_always_ahead_once_it_was_handled() {
    let mut proxy = Alone::proxy(Settings::default());
    for _ in 0..50 {
        let due = proxy.session.poll_timeout().expect("keepalive is on");
        assert!(due > proxy.now);
        proxy.pass(due - proxy.now);
        proxy.feed(0, FrameKind::Pong(0));
        proxy.frames();
    }
}

#[test]
fn an_interval_of_zero_switches_keepalive_off() {
    let mut proxy = Alone::proxy(Settings { ping_interval: Duration::ZERO, ..Settings::default() });
    assert_eq!(proxy.session.poll_timeout(), None);
    proxy.pass(TICK * 1000);
    assert_eq!((proxy.events(), proxy.frames()), (vec![], vec![]));
}
