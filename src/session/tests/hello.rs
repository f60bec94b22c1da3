use super::*;

#[test]
fn the_client_says_hello_first_and_the_proxy_answers_welcome_at_once() {
    let settings = Settings { agent: "test/1".into(), metadata: vec![text("a", "b")], ..Settings::default() };
    let mut client = Alone::new(Side::Client, settings);
    let sent = client.frames();
    let [Frame { stream: 0, kind: FrameKind::Hello(hello) }] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(
        (&hello.versions[..], hello.agent.as_str(), hello.stream_credit),
        (&[1][..], "test/1", 262_144)
    );

    let settings = Settings { session_id: "s1".into(), ..Settings::default() };
    let mut proxy = Alone::new(Side::Proxy, settings);
    proxy.feed(0, FrameKind::Hello(hello.clone()));
    assert_eq!(proxy.events(), [Event::Greeted { agent: "test/1".into() }]);
    let sent = proxy.frames();
    let [Frame { stream: 0, kind: FrameKind::Welcome(welcome) }] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((welcome.version, welcome.session_id.as_str()), (1, "s1"));
    assert!(welcome.resume_token.is_empty() && !welcome.resumed);
    let limits = welcome.limits.expect("Welcome has limits");
    assert_eq!((limits.max_message, limits.max_streams, limits.stream_credit), (4 << 20, 256, 262_144));
    assert_eq!(welcome.ping_interval_ms, 20_000);
}

#[test]
fn the_proxy_says_nothing_before_hello() {
    let mut proxy = Alone::new(Side::Proxy, Settings::default());
    assert_eq!(proxy.frames(), []);
    proxy.session.go_away(crate::wire::Code::UNAVAILABLE, "restart", 0);
    assert_eq!(proxy.closed().map(|r| r.label), Some("drained"));
    assert_eq!(proxy.frames(), [], "a GoAway before Welcome would break the protocol");
}

#[test]
fn calls_may_stand_right_behind_hello_in_the_same_packet() {
    let mut client = Session::new(Side::Client, Settings::default(), epoch());
    let stream = client.open(open("/a.B/C")).expect("room");
    client.send(stream, Bytes::from_static(b"hi"), 0, true);
    let mut packet = BytesMut::new();
    assert!(client.poll_packet(&mut packet, usize::MAX));
    let mut proxy = Alone::new(Side::Proxy, Settings::default());
    proxy.feed_bytes(packet.freeze());
    let events = proxy.events();
    assert!(
        matches!(
            &events[..],
            [
                Event::Greeted { .. },
                Event::Opened { stream: 1, .. },
                Event::Data { stream: 1, last: true, .. }
            ]
        ),
        "{events:?}"
    );
}

#[test]
fn until_welcome_the_client_works_with_the_initial_credit_and_then_gets_the_difference() {
    let mut client = Alone::new(Side::Client, Settings::default());
    let stream = client.session.open(open("/a.B/C")).expect("room");
    let left = pair::feed(&mut client.session, stream, Bytes::from(vec![1; 300_000]));
    client.frames();
    let left = pair::feed(&mut client.session, stream, left);
    client.frames();
    let left = pair::feed(&mut client.session, stream, left);
    assert!(left.len() > 300_000 - 65_536, "no more than the initial credit");
    assert_eq!(client.session.piece(stream, left.len()), None);
    client.events();
    let mut welcome = welcome();
    welcome.limits = welcome.limits.map(|l| v1::Limits { stream_credit: 100_000, ..l });
    client.feed(0, FrameKind::Welcome(Box::new(welcome)));
    let events = client.events();
    assert!(matches!(events[..], [Event::Welcomed(_), Event::Writable { stream: 1 }]), "{events:?}");
    client.frames();
    assert!(client.session.piece(stream, left.len()).is_some());
    assert_eq!(
        client.session.streams[&stream].outbound.credit,
        100_000 - 65_536,
        "all of the initial credit was used"
    );
}

#[test]
fn welcome_tells_the_client_how_many_streams_it_may_open() {
    let mut client = Alone::client(Settings { max_streams: 1000, ..Settings::default() });
    for _ in 0..100 {
        client.session.open(open("/a.B/C")).expect("room");
    }
    assert_eq!(client.session.open(open("/a.B/C")), Err(super::super::OpenError::Full(100)));
}

#[test]
fn default_metadata_joins_each_call_unless_the_call_has_the_name_itself() {
    let settings = Settings { metadata: vec![text("a", "1"), text("b", "2")], ..Settings::default() };
    let mut pair = Pair::with(settings, Settings::default()).and_greeted();
    let call = v1::Open { metadata: vec![text("b", "own")], ..open("/a.B/C") };
    pair.client.open(call.clone()).expect("room");
    pair.settle();
    let Some(Event::Opened { open, .. }) = pair.at_proxy.pop_front() else { panic!("no call") };
    assert_eq!(open.metadata, [text("b", "own"), text("a", "1")]);

    pair.client.refresh(vec![text("c", "3")]);
    pair.client.open(call).expect("room");
    pair.settle();
    assert_eq!(pair.at_proxy.pop_front(), Some(Event::Refreshed));
    assert_eq!(pair.proxy.default_metadata(), [text("c", "3")]);
    let Some(Event::Opened { open, .. }) = pair.at_proxy.pop_front() else { panic!("no call") };
    assert_eq!(open.metadata, [text("b", "own"), text("c", "3")]);
}

#[test]
fn a_long_agent_is_cut_at_a_character() {
    let mut proxy = Alone::new(Side::Proxy, Settings::default());
    proxy.feed(0, FrameKind::Hello(Box::new(v1::Hello { agent: "ü".repeat(500), ..hello() })));
    assert_eq!(proxy.events(), [Event::Greeted { agent: "ü".repeat(128) }]);
}
