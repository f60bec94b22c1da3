//! A TCP middlebox between a client and Bidiway that treats what passes badly.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// What it does to all bytes, in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) split: Split,
    /// Holds every write back for so long.
    pub(crate) delay: Duration,
    /// Resets connections on which nothing passed for so long.
    pub(crate) patience: Option<Duration>,
    /// Keeps each HTTP/1.1 response until it is complete, as those do that scan what they let through.
    pub(crate) holds_responses: bool,
}

/// How large the segments are that it makes of what it receives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Split {
    #[default]
    Whole,
    /// Byte by byte.
    Bytes,
    /// 1 to 100 bytes, from this seed.
    Random(u64),
}

/// What it does to a connection from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Pass,
    /// Swallows everything, and closes nothing.
    Swallow,
    /// Reads nothing any more, in either direction: senders find their windows closed.
    Freeze,
    /// Ends both directions with FIN.
    Fin,
    /// Ends both directions with RST.
    Reset,
}

/// A running middlebox.
pub(crate) struct Middlebox {
    pub(crate) address: SocketAddr,
    orders: watch::Sender<Order>,
}

impl Middlebox {
    /// In front of a server.
    pub(crate) async fn before(server: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (orders, order) = watch::channel(Order::Pass);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(relay(client, server, manner, order.clone()));
            }
        });
        Self { address, orders }
    }

    /// All connections, those that run and those to come.
    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    manner: Manner,
    mut orders: watch::Receiver<Order>,
) {
    for io in [&client, &server] {
        io.set_nodelay(true).unwrap();
    }
    let heard = Arc::new(Mutex::new(Instant::now()));
    let pumping = orders.clone();
    let reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async {
            tokio::join!(
                pump(
                    from_client,
                    to_server,
                    Manner { holds_responses: false, ..manner },
                    pumping.clone(),
                    &heard
                ),
                pump(from_server, to_client, manner, pumping.clone(), &heard),
            )
        };
        tokio::select! {
            _ = both => false,
            order = orders.wait_for(|order| matches!(order, Order::Fin | Order::Reset)) => {
                order.is_ok_and(|order| *order == Order::Reset)
            }
            () = silence(manner.patience, &heard) => true,
        }
    };
    if reset {
        for io in [&client, &server] {
            // RST instead of FIN.
            socket2::SockRef::from(io).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

async fn pump(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    manner: Manner,
    mut orders: watch::Receiver<Order>,
    heard: &Mutex<Instant>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut held = Vec::new();
    let mut seed = match manner.split {
        Split::Random(seed) => seed,
        Split::Whole | Split::Bytes => 0,
    };
    loop {
        if orders.wait_for(|order| *order != Order::Freeze).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = orders.wait_for(|order| *order == Order::Freeze) => continue,
        };
        let swallows = *orders.borrow() == Order::Swallow;
        let Ok(len @ 1..) = read else {
            if swallows {
                return std::future::pending().await; // the other side never learns it
            }
            let _ = to.shutdown().await;
            return;
        };
        if swallows {
            continue;
        }
        *heard.lock().unwrap() = Instant::now();
        if !manner.delay.is_zero() {
            sleep(manner.delay).await;
        }
        let mut rest = &buffer[..len];
        if manner.holds_responses {
            held.extend_from_slice(rest);
            if !complete(&held) {
                continue;
            }
            rest = &held;
        }
        while !rest.is_empty() {
            let size = match manner.split {
                Split::Whole => rest.len(),
                Split::Bytes => 1,
                Split::Random(_) => random(&mut seed).min(rest.len()),
            };
            if to.write_all(&rest[..size]).await.is_err() {
                return;
            }
            rest = &rest[size..];
            // The receiver gets its turn between two segments.
            tokio::task::yield_now().await;
        }
        held.clear();
    }
}

/// Whether one HTTP/1.1 response is there to its end.
fn complete(response: &[u8]) -> bool {
    let Some(head) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let (head, body) = response.split_at(head + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    length.map_or(0, |length| length.parse().unwrap()) <= body.len()
}

/// A number from 1 to 100 (xorshift64).
fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed % 100) as usize + 1
}

async fn silence(patience: Option<Duration>, heard: &Mutex<Instant>) {
    let Some(patience) = patience else { return std::future::pending().await };
    loop {
        let until = *heard.lock().unwrap() + patience;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}
