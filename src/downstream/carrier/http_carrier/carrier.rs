//! The session's end of an HTTP carrier.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::{Instant, Sleep};

use super::{Line, table::Listing};
use crate::{
    downstream::carrier::link::{Incoming, Lost, PACKET_TARGET},
    telemetry::CarrierKind,
    wire::{http_carrier, websocket::HEADER_MAX},
};

/// A carrier that polls is lost when no poll waited for so long.
const UNASKED: Duration = Duration::from_secs(30);

/// An HTTP carrier, as a session's task has it. Its requests find it until this is dropped.
#[derive(Debug)]
pub(in crate::downstream::carrier) struct HttpCarrier {
    line: Arc<Line>,
    _listing: Listing,
    /// When to look whether a poll waits; for a carrier that polls.
    look: Option<Pin<Box<Sleep>>>,
}

impl HttpCarrier {
    pub(super) fn new(line: Arc<Line>, listing: Listing) -> Self {
        let look = line.polls.then(|| Box::pin(tokio::time::sleep(UNASKED)));
        Self { line, _listing: listing, look }
    }

    pub(in crate::downstream::carrier) fn kind(&self) -> CarrierKind {
        if self.line.polls { CarrierKind::HttpPoll } else { CarrierKind::Http }
    }

    pub(in crate::downstream::carrier) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Poll::Ready(incoming) = self.line.poll_read(cx.waker()) {
            return Poll::Ready(incoming);
        }
        let Some(look) = &mut self.look else { return Poll::Pending };
        loop {
            ready!(look.as_mut().poll(cx));
            let now = Instant::now();
            let since = self.line.unasked_since().unwrap_or(now);
            if now >= since + UNASKED {
                return Poll::Ready(Incoming::Lost);
            }
            look.as_mut().reset(since + UNASKED);
        }
    }

    /// What there is room for in what waits, and the room in front of a packet. After `poll_flush` has said ready there
    /// is some: a session that has a packet and is asked for one of no size would wait for ever.
    pub(in crate::downstream::carrier) fn packet_target(&self) -> usize {
        HEADER_MAX + PACKET_TARGET.saturating_sub(self.line.waiting())
    }

    pub(in crate::downstream::carrier) fn poll_flush(&self, waker: &Waker) -> Poll<Result<(), Lost>> {
        self.line.poll_room(waker)
    }

    /// As [`super::super::link::Carrier::send`].
    pub(in crate::downstream::carrier) fn send(&self, packet: &mut BytesMut) {
        const { assert!(http_carrier::FIELD_MAX <= HEADER_MAX) };
        let len = packet.len() - HEADER_MAX;
        let start = http_carrier::packet_field(len, &mut packet[..HEADER_MAX]);
        self.line.send(&packet[start..]);
        packet.clear();
    }

    pub(in crate::downstream::carrier) fn close(&self, code: u16, reason: &str) {
        self.line.close(code, reason);
    }

    pub(in crate::downstream::carrier) fn poll_closed(&self, waker: &Waker) -> Poll<()> {
        self.line.poll_fetched(waker)
    }
}

impl Drop for HttpCarrier {
    fn drop(&mut self) {
        self.line.end();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::downstream::carrier::{
        http_carrier::{HttpCarriers, Owner},
        token::{self, InstanceId, Run},
    };

    fn carrier() -> HttpCarrier {
        let name = token::mint(Run::begin(InstanceId::named("edge-0")).unwrap(), 7).unwrap();
        let (line, _) = Line::new(name, Owner::default(), false, Bytes::new(), false);
        let line = Arc::new(line);
        let listing = Arc::<HttpCarriers>::default().enter(&line).unwrap();
        HttpCarrier::new(line, listing)
    }

    #[test]
    fn there_is_room_for_a_packet_or_a_wake_up_when_there_is() {
        let carrier = carrier();
        carrier.line.send(&[0; PACKET_TARGET - 100 - 2048 - 45]); // behind it comes padding, before it the name
        let (waker, woken) = watched_waker();
        let mut waiting = carrier.line.waiting();
        assert!(waiting < PACKET_TARGET, "{waiting}");
        while carrier.poll_flush(&waker).is_ready() {
            assert!(carrier.packet_target() > HEADER_MAX, "nothing fits, with {waiting} bytes waiting");
            carrier.line.send(&[0]);
            waiting += 1;
            assert_eq!(carrier.line.waiting(), waiting);
        }
        assert_eq!((waiting, carrier.packet_target()), (PACKET_TARGET, HEADER_MAX));
        assert!(!woken());
        assert!(carrier.line.poll_body(&waker).is_ready());
        assert!(woken(), "the response has taken everything");
    }

    /// A waker, and whether it was woken.
    fn watched_waker() -> (Waker, impl Fn() -> bool) {
        use std::sync::atomic::{AtomicBool, Ordering};

        struct Flag(AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        (Waker::from(Arc::clone(&flag)), move || flag.0.load(Ordering::SeqCst))
    }
}
