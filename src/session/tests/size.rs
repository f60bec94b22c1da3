use super::*;
use crate::session::stream::Stream;

#[test]
fn an_idle_session_and_a_stream_are_small() {
    let (session, stream, event) = (size_of::<Session>(), size_of::<Stream>(), size_of::<Event>());
    println!("session {session}, stream {stream}, event {event}");
    assert!(session <= 1024, "a session takes {session} bytes");
    assert!(stream <= 160, "a stream takes {stream} bytes");
    assert!(event <= 64, "an event takes {event} bytes");
    let proxy = Alone::proxy(Settings::default());
    let s = &proxy.session;
    assert_eq!((s.streams.capacity(), s.outbox.ready.capacity(), s.outbox.owing.capacity()), (0, 0, 0));
}

#[test]
fn a_burst_leaves_no_room_behind() {
    let mut pair = Pair::greeted();
    let streams: Vec<_> = (0..256).map(|_| pair.client.open(open("/a.B/C")).expect("room")).collect();
    pair.settle();
    for stream in streams {
        pair.proxy.end(stream, trailers(0));
    }
    pair.settle();
    for s in [&pair.client, &pair.proxy] {
        assert!(s.streams.capacity() <= 64 && s.events.capacity() <= 64);
        assert!(s.outbox.ready.capacity() <= 64, "{}", s.outbox.ready.capacity());
    }
}
