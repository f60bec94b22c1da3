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

    /// What there is room for in what waits.
    pub(in crate::downstream::carrier) fn packet_target(&self) -> usize {
        PACKET_TARGET.saturating_sub(self.line.waiting()).max(1)
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
