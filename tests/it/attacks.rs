//! What attacks cost a process: its resident memory, and what others wait. The attacks are those of `floods`, several of
//! each at once, against a process of its own with the defaults.
//!
//! It prints what it found. In figures: `BIDIWAY_BIN=target/profiling/bidiway ATTACK_SECONDS=10 cargo test --test it attacks
//! -- --nocapture`.

use std::{
    env,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    process::Stdio,
    time::{Duration, Instant},
};

use bidiway::session;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    floods::rapid_resets,
    support::{
        carrier::Carrier,
        edge::{Client, Http, WebAnswer, whole},
        raw::{CONTINUATION, PING, RawConnection, call_headers, encode, settings_frame},
        reload::Folder,
        upstream::{Flooding, message},
        within,
    },
};

const ECHO: &str = "/chat.v1.Chat/Echo";
const FLOOD: &str = "/chat.v1.Chat/Flood";

/// Attackers of one kind, all from one address.
const ATTACKERS: usize = 16;

/// What an attack may add to the resident memory, in KiB. Of what is kept for a connection, most is the kernel's; the
/// process has a write buffer (64 KiB) and windows (256 KiB each way) for a stream, and an allocator that gives back
/// late. 16 attackers with some streams each stay far below; what grows with what is sent does not.
const MOST_KIB: u64 = 64 * 1024;

/// One attacker, again and again until it is dropped.
type Attack = fn(SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const ATTACKS: [(&str, Attack); 8] = [
    ("none", |_| Box::pin(std::future::pending())),
    ("rapid reset", |address| {
        Box::pin(async move {
            loop {
                let mut attacker = RawConnection::to(address, None).await;
                let _ = attacker.io.write_all(&rapid_resets(2000)).await;
                attacker.goaway().await;
            }
        })
    }),
    ("CONTINUATION without end", |address| {
        Box::pin(async move {
            let piece = encode(CONTINUATION, 0, 1, &[b'y'; 16_000]);
            loop {
                let mut attacker = RawConnection::to(address, None).await;
                let mut head = call_headers(1, ECHO);
                head[4] = 0;
                let _ = attacker.io.write_all(&head).await;
                attacker.flood(&piece).await;
            }
        })
    }),
    ("SETTINGS and PING, answers unread", |address| {
        Box::pin(async move {
            let both = [encode(PING, 0, 0, &[7; 8]), settings_frame(&[(4, 65_535)])].concat().repeat(256);
            loop {
                RawConnection::to(address, Some(4096)).await.flood(&both).await;
            }
        })
    }),
    ("16 floods each, unread", |address| {
        Box::pin(async move {
            let mut readers = Vec::new();
            for _ in 0..16 {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                let mut io = socket.connect(address).await.unwrap();
                let (head, body) = (post(FLOOD), message(b"on"));
                let _ = io.write_all(&[head.as_bytes(), &body].concat()).await;
                readers.push(io);
            }
            std::future::pending().await
        })
    }),
    ("60 heads each, byte by byte", |address| {
        Box::pin(async move {
            loop {
                let mut slow = join_all((0..60).map(|_| TcpStream::connect(address))).await;
                loop {
                    let mut sent = 0;
                    for io in slow.iter_mut().flatten() {
                        sent += usize::from(io.write_all(b"P").await.is_ok());
                    }
                    if sent < 60 {
                        break;
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            }
        })
    }),
    ("open and cancel in sessions", |address| {
        Box::pin(async move {
            loop {
                // Six of them: upgrades are limited too, and later ones are refused.
                let mut socket = Carrier::Http1.connect_to(address, session::Settings::default()).await;
                while socket.closed.is_none() {
                    let stream = socket.open(ECHO).await;
                    socket.cancel(stream).await;
                    socket.listen(Duration::ZERO).await;
                }
                sleep(Duration::from_millis(100)).await;
            }
        })
    }),
    ("compressed messages of 4 MiB", |address| {
        Box::pin(async move {
            // A gzip of nothing but zeros is a thousandth of them.
            let mut bomb = vec![1];
            bomb.extend((4_000_000_u32).to_be_bytes());
            bomb.resize(5 + 4_000_000, 0x1f);
            loop {
                let Ok(mut io) = TcpStream::connect(address).await else { continue };
                let head =
                    post(ECHO).replace("content-length: 7", "content-length: 4000005\r\ngrpc-encoding: gzip");
                let (mut read, mut write) = io.split();
                let write = async {
                    let _ = write.write_all(head.as_bytes()).await;
                    let _ = write.write_all(&bomb).await;
                };
                // It reads the answer, slowly.
                let read = async {
                    let mut piece = vec![0; 64 * 1024];
                    while read.read(&mut piece).await.is_ok_and(|read| read > 0) {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                let _ = timeout(Duration::from_secs(2), async { tokio::join!(write, read) }).await;
            }
        })
    }),
];

fn post(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 7\r\n\r\n"
    )
}

/// A process in front of a service that echoes and floods.
async fn process(folder: &Folder, upstream: &str) -> (Child, SocketAddr) {
    let config = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 2\nupstreams: {{ a: {{ endpoints: [\"{upstream}\"] }} }}\n"
    );
    folder.write("bidiway.yaml", &config);
    let binary = env::var("BIDIWAY_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_bidiway").to_owned());
    let mut child = Command::new(binary)
        .args(["serve", "--log", "off", "--config"])
        .arg(folder.path("bidiway.yaml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(20, lines.next_line()).await.unwrap().unwrap();
    let address = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, address)
}

/// The resident memory of a process, in KiB.
fn resident(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Somebody else, who calls a hundred times a second over a connection of his own; how long it took.
async fn caller(address: SocketAddr, times: &mut Vec<Duration>) {
    let mut client = Client::connect(address, Http::Two).await;
    loop {
        let begun = now();
        call(address, &mut client).await;
        times.push(begun.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
}

async fn call(address: SocketAddr, client: &mut Client) {
    let request = http::Request::post(format!("http://{address}{ECHO}"))
        .header("content-type", "application/grpc-web+proto")
        .body(whole(message(b"hi")))
        .unwrap();
    let answer = WebAnswer::read(client.send(request).await.unwrap()).await.unwrap();
    assert_eq!((answer.status().0, answer.payloads()), (0, vec![&b"hi"[..]]));
}

#[expect(clippy::disallowed_methods, reason = "it is told and not asserted how long others wait")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_makes_a_process_grow_and_others_are_served_meanwhile() {
    let seconds = env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!(
        "{:35} {:>8} {:>8} {:>8} {:>7} {:>9} {:>9}",
        "attack", "before", "peak", "after", "calls", "p50", "p99"
    );
    for (name, attack) in ATTACKS {
        let upstream = Flooding::start().await;
        let folder = Folder::new();
        let (process, address) = process(&folder, &upstream.server.url).await;
        let mut times = Vec::new();
        // Everything has been there once.
        within(20, async { call(address, &mut Client::connect(address, Http::Two).await).await }).await;
        let (before, mut peak) = (resident(&process), 0);
        let mut attackers = JoinSet::new();
        (0..ATTACKERS).for_each(|_| drop(attackers.spawn(attack(address))));
        let attacked = async {
            tokio::select! {
                () = caller(address, &mut times) => {}
                () = async {
                    loop {
                        sleep(Duration::from_millis(20)).await;
                        peak = peak.max(resident(&process));
                    }
                } => {}
            }
        };
        let _ = timeout(Duration::from_secs(seconds), attacked).await;
        let over = attackers.try_join_next();
        assert!(over.is_none(), "{name}: an attacker has ended: {over:?}");
        attackers.shutdown().await;
        // It serves whoever comes now.
        within(20, async { call(address, &mut Client::connect(address, Http::Two).await).await }).await;
        let after = resident(&process);
        times.sort();
        let part =
            |part: usize| times.get(times.len().saturating_sub(1) * part / 100).copied().unwrap_or_default();
        println!(
            "{name:35} {before:8} {peak:8} {after:8} {:7} {:>9.1?} {:>9.1?}",
            times.len(),
            part(50),
            part(99)
        );
        assert!(peak < before + MOST_KIB, "{name}: from {before} KiB to {peak}");
    }
}
