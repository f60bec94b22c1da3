//! The link's end at the client: it hands on whatever comes, and understands none of it.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep, timeout};

use crate::{
    downstream::{
        ConnInfo, Edge,
        carrier::{
            link::{self, CLOSE_TIMEOUT, Carrier, Link},
            socket::{Incoming, Socket},
            token::InstanceId,
        },
    },
    session::CloseReason,
    wire::{Code, websocket::HEADER_MAX},
};

/// How many messages are handed on before others on this worker get their turn.
const TURN: usize = 64;

/// How many messages are read from a client that takes nothing: each ping among them makes us keep a pong.
const READS_WHILE_BLOCKED: u32 = 1024;

/// Hands on until either side ends, and tells the other side how.
pub(super) async fn relay(
    edge: &Edge,
    conn: &ConnInfo,
    instance: InstanceId,
    client: Link,
    owner: Socket,
    first: Bytes,
) {
    let _counted = edge.metrics.relay_opened();
    tracing::debug!(peer = %conn.peer, owner = %instance, "session relayed to another instance");
    let mut relay = Relay { client, owner, first: Some(first), packet: BytesMut::new() };
    let end = tokio::select! {
        end = poll_fn(|cx| relay.poll(cx)) => end,
        () = stop(edge) => End::Stopping,
    };
    tracing::debug!(peer = %conn.peer, owner = %instance, ?end, "relay over");
    relay.end(end).await;
}

/// A relay can move as easily as it began: the client comes back elsewhere, and its session has lost nothing. So those
/// there are go when this instance drains, one after the other. Who comes later came because a balancer still leads
/// here, and would be led here again: it can stay as long as clients of this instance's own sessions can come back,
/// and keeps nobody waiting after that.
async fn stop(edge: &Edge) {
    let drain = &edge.drain;
    let turn = async {
        if drain.draining.is_cancelled() {
            edge.sessions.emptied().await;
        } else {
            drain.draining.cancelled().await;
        }
        sleep(drain.share()).await;
    };
    tokio::select! {
        () = turn => {}
        () = drain.cut.cancelled() => {}
    }
}

/// Two carriers, back to back. Each side is read only while the other side takes what comes, so at most one packet each
/// way waits here.
struct Relay {
    client: Link,
    owner: Socket,
    /// What came from the owner already.
    first: Option<Bytes>,
    /// Room to frame packets in.
    packet: BytesMut,
}

/// How a relay ends.
#[derive(Debug)]
enum End {
    /// The client closed, with this code if it gave one.
    ClientClosed(Option<u16>),
    ClientLost,
    /// The client broke its carrier's rules. Its session may go on with another.
    ClientUnfit(CloseReason),
    /// The client did what ends its session.
    ClientViolation(CloseReason),
    /// The owner closed, with this code if it gave one.
    OwnerClosed(Option<u16>),
    OwnerLost,
    /// This instance stops.
    Stopping,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURN {
            let (down, up) = (self.poll_down(cx), self.poll_up(cx));
            match (down, up) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One message from the owner to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Self { client, owner, first, packet } = self;
        match client.carrier.poll_flush(cx) {
            Poll::Ready(Ok(())) => client.reads_while_blocked = 0,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::ClientLost)),
            Poll::Pending => return Poll::Pending,
        }
        let incoming = match first.take() {
            Some(first) => Incoming::Packet(first),
            None => std::task::ready!(owner.poll_read(cx)),
        };
        Poll::Ready(match incoming {
            Incoming::Packet(bytes) => {
                framed(packet, Carrier::ROOM, &bytes);
                client.carrier.send(cx, packet);
                Ok(())
            }
            // A ping: only the client can say whether it lives.
            Incoming::Alive => {
                client.carrier.ping(cx);
                Ok(())
            }
            Incoming::Closed(code) => Err(End::OwnerClosed(code)),
            Incoming::Text(_) | Incoming::Broken(_) => Err(End::OwnerLost),
        })
    }

    /// One message from the client to the owner.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Self { client, owner, packet, .. } = self;
        match owner.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::OwnerLost)),
            Poll::Pending => return Poll::Pending,
        }
        if client.reads_while_blocked == READS_WHILE_BLOCKED {
            return Poll::Pending; // until the client takes something
        }
        let incoming = std::task::ready!(client.carrier.poll_read(cx));
        client.reads_while_blocked += 1;
        Poll::Ready(match incoming {
            link::Incoming::Packet(bytes) => {
                framed(packet, HEADER_MAX, &bytes);
                owner.send(cx, packet);
                Ok(())
            }
            // Whatever it says: a session takes none.
            link::Incoming::Text => {
                framed(packet, HEADER_MAX, &[]);
                owner.send_text(cx, packet);
                Ok(())
            }
            link::Incoming::Alive => {
                owner.pong(cx);
                Ok(())
            }
            link::Incoming::Closed(code) => Err(End::ClientClosed(code)),
            link::Incoming::Lost => Err(End::ClientLost),
            link::Incoming::Unfit(reason) => Err(End::ClientUnfit(reason)),
            link::Incoming::Violation(reason) => Err(End::ClientViolation(reason)),
            link::Incoming::Unreadable(message) => {
                Err(End::ClientViolation(CloseReason::new(Code::INVALID_ARGUMENT, "violation", message)))
            }
        })
    }

    /// Tells the side that does not know it yet.
    async fn end(mut self, end: End) {
        let unavailable = Code::UNAVAILABLE.to_close();
        match end {
            End::ClientLost => {} // the owner sees the same
            End::ClientClosed(code) => {
                // Our answer to its close frame is worth one try.
                let _ = self.client.carrier.poll_flush(&mut Context::from_waker(Waker::noop()));
                drop(self.client);
                tell(self.owner, code.unwrap_or(unavailable), "").await;
            }
            End::ClientUnfit(reason) => {
                let farewell = self.client.farewell(reason.close_code, &reason.message);
                tokio::join!(tell(self.owner, unavailable, &reason.message), farewell);
            }
            End::ClientViolation(reason) => {
                let farewell = self.client.farewell(reason.close_code, &reason.message);
                tokio::join!(tell(self.owner, reason.close_code, &reason.message), farewell);
            }
            End::OwnerClosed(code) => {
                let _ = self.owner.poll_flush(&mut Context::from_waker(Waker::noop()));
                let farewell = self.client.farewell(code.unwrap_or(unavailable), self.owner.reason());
                farewell.await;
            }
            End::OwnerLost => {
                let text = "the instance that has this session is out of reach; connect again";
                self.client.farewell(unavailable, text).await;
            }
            End::Stopping => {
                let text = "this instance is shutting down; connect again";
                tokio::join!(tell(self.owner, unavailable, text), self.client.farewell(unavailable, text));
            }
        }
    }
}

/// Closes the link to the owner.
async fn tell(mut owner: Socket, code: u16, reason: &str) {
    owner.close(&mut Context::from_waker(Waker::noop()), code, reason);
    let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| owner.poll_closed(cx))).await;
}

fn framed(packet: &mut BytesMut, room: usize, bytes: &[u8]) {
    packet.resize(room, 0);
    packet.extend_from_slice(bytes);
}
