//! A name server for one name, whose addresses the test decides.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::net::UdpSocket;

/// The only name that is known; others are refused.
pub(crate) const NAME: &str = "chat.test";

/// A (RFC 1035, section 3.2.2).
const A: [u8; 2] = [0, 1];

/// Answer codes (RFC 1035, section 4.1.1).
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// A running name server.
pub(crate) struct Names {
    pub(crate) address: SocketAddr,
    /// `None`: it fails.
    addresses: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    asked: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) async fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let names = Self {
            address: socket.local_addr().unwrap(),
            addresses: Arc::new(Mutex::new(Some(addresses.to_vec()))),
            asked: Arc::default(),
        };
        let (addresses, asked) = (names.addresses.clone(), names.asked.clone());
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((len, client)) = socket.recv_from(&mut query).await {
                asked.fetch_add(1, SeqCst);
                let answer = answer(&query[..len], addresses.lock().unwrap().as_deref());
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        names
    }

    pub(crate) fn set(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().unwrap() = Some(addresses.to_vec());
    }

    pub(crate) fn fail(&self) {
        *self.addresses.lock().unwrap() = None;
    }

    /// How many queries there were.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// The answer to a query with one question (RFC 1035, section 4): for A what there is, for other types nothing.
fn answer(query: &[u8], addresses: Option<&[Ipv4Addr]>) -> Vec<u8> {
    let mut at = 12;
    let mut name = Vec::new();
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        name.push(String::from_utf8(label.to_ascii_lowercase()).unwrap());
        at += 1 + label.len();
    }
    let question = &query[12..at + 5];
    let kind = &query[at + 1..at + 3];
    let code = match addresses {
        None => SERVER_FAILURE,
        Some(_) if name.join(".") != NAME => NO_SUCH_NAME,
        Some(_) => 0,
    };
    let found = if code == 0 && kind == A { addresses.unwrap_or_default() } else { &[] };
    let mut answer = query[..2].to_vec();
    // A response, recursion desired and available.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
    answer.extend(question);
    for address in found {
        // The question's name, class IN, a TTL of a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
