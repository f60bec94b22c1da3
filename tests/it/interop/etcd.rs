//! etcd: unary KV, a Watch that stays open after half-close, LeaseKeepAlive, the Snapshot stream.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bidiway::wire::Code;
use prost::Message;
use tokio::process::Command;

use super::{World, process::Process, wanted};
use crate::support::{socket::Socket, within};

/// The messages of etcd's `rpc.proto` and `kv.proto`, as far as they are used here.
mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(bytes, tag = "1")]
        pub(super) key: Vec<u8>,
        #[prost(bytes, tag = "5")]
        pub(super) value: Vec<u8>,
        #[prost(int64, tag = "6")]
        pub(super) lease: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutRequest {
        #[prost(bytes, tag = "1")]
        pub(super) key: Vec<u8>,
        #[prost(bytes, tag = "2")]
        pub(super) value: Vec<u8>,
        #[prost(int64, tag = "3")]
        pub(super) lease: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RangeRequest {
        #[prost(bytes, tag = "1")]
        pub(super) key: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RangeResponse {
        #[prost(message, repeated, tag = "2")]
        pub(super) kvs: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WatchRequest {
        #[prost(message, optional, tag = "1")]
        pub(super) create: Option<WatchCreate>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WatchCreate {
        #[prost(bytes, tag = "1")]
        pub(super) key: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WatchResponse {
        #[prost(bool, tag = "3")]
        pub(super) created: bool,
        #[prost(bool, tag = "4")]
        pub(super) canceled: bool,
        #[prost(message, repeated, tag = "11")]
        pub(super) events: Vec<Event>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        #[prost(message, optional, tag = "2")]
        pub(super) kv: Option<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LeaseGrantRequest {
        #[prost(int64, tag = "1")]
        pub(super) ttl: i64,
    }

    /// Grant's answer, and what KeepAlive says each time.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Lease {
        #[prost(int64, tag = "2")]
        pub(super) id: i64,
        #[prost(int64, tag = "3")]
        pub(super) ttl: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LeaseKeepAliveRequest {
        #[prost(int64, tag = "1")]
        pub(super) id: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SnapshotResponse {
        #[prost(uint64, tag = "2")]
        pub(super) remaining_bytes: u64,
        #[prost(bytes, tag = "3")]
        pub(super) blob: Vec<u8>,
    }
}

/// A folder of the test's own, removed with it.
struct DataDir(PathBuf);

impl DataDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("etcd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An etcd of the test's own, with Bidiway before it. etcd cannot take port 0, so two free ones are found first.
async fn world() -> (World, DataDir) {
    let data = DataDir::new();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (client, peer) = (free(), free());
    let address = client.local_addr().unwrap();
    let (client_url, peer_url) =
        (format!("http://{address}"), format!("http://{}", peer.local_addr().unwrap()));
    drop((client, peer));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(&data.0).args(["--log-level", "error"]);
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("default={peer_url}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap_or_else(|error| panic!("etcd: {error}"));
    let mut world = World::before(Process { address, _child: child }, "etcd").await;
    // Until it serves, Bidiway answers UNAVAILABLE, and etcd itself until it has a leader.
    within(30, async {
        while get(&mut world.socket, "ready").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    (world, data)
}

async fn get(socket: &mut Socket, key: &str) -> Result<Option<pb::KeyValue>, Code> {
    let request = pb::RangeRequest { key: key.into() };
    let answer = socket.unary("/etcdserverpb.KV/Range", request.encode_to_vec()).await;
    if answer.code() != Code::OK {
        return Err(answer.code());
    }
    Ok(pb::RangeResponse::decode(&answer.messages[0][..]).unwrap().kvs.pop())
}

async fn put(socket: &mut Socket, key: &str, value: &[u8], lease: i64) {
    let request = pb::PutRequest { key: key.into(), value: value.into(), lease };
    let answer = socket.unary("/etcdserverpb.KV/Put", request.encode_to_vec()).await;
    assert_eq!(answer.code(), Code::OK, "{answer:?}");
}

#[tokio::test]
async fn what_is_put_is_found() {
    if !wanted("interop::etcd::what_is_put_is_found") {
        return;
    }
    let (mut world, _data) = world().await;
    within(30, async {
        put(&mut world.socket, "k", b"v", 0).await;
        assert_eq!(get(&mut world.socket, "k").await.unwrap().unwrap().value, b"v");
        assert_eq!(get(&mut world.socket, "nothing").await.unwrap(), None);
        let refused = world.socket.unary("/etcdserverpb.KV/Put", Vec::new()).await;
        assert_eq!(refused.code(), Code::INVALID_ARGUMENT, "{refused:?}");
        assert!(!refused.by_proxy());
    })
    .await;
}

#[tokio::test]
async fn a_watch_tells_of_changes_also_after_half_close_and_ends_when_cancelled() {
    if !wanted("interop::etcd::a_watch_tells_of_changes") {
        return;
    }
    let (mut world, _data) = world().await;
    let socket = &mut world.socket;
    within(30, async {
        let watch = socket.open("/etcdserverpb.Watch/Watch").await;
        let create = pb::WatchRequest { create: Some(pb::WatchCreate { key: b"k".to_vec() }) };
        socket.send(watch, create.encode_to_vec()).await;
        let created = pb::WatchResponse::decode(&socket.message(watch).await[..]).unwrap();
        assert!(created.created && !created.canceled, "{created:?}");
        for value in [&b"before"[..], b"half-close", b"after", b"and again"] {
            if value == b"after" {
                socket.finish(watch).await;
            }
            put(socket, "k", value, 0).await;
            let told = pb::WatchResponse::decode(&socket.message(watch).await[..]).unwrap();
            assert_eq!(told.events[0].kv.as_ref().unwrap().value, value);
        }
        socket.cancel(watch).await;
        // The session goes on, and so does etcd.
        put(socket, "k", b"unseen", 0).await;
        assert_eq!(get(socket, "k").await.unwrap().unwrap().value, b"unseen");
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_kept_alive_over_one_stream() {
    if !wanted("interop::etcd::a_lease_is_kept_alive_over_one_stream") {
        return;
    }
    let (mut world, _data) = world().await;
    let socket = &mut world.socket;
    within(30, async {
        let request = pb::LeaseGrantRequest { ttl: 60 };
        let answer = socket.unary("/etcdserverpb.Lease/LeaseGrant", request.encode_to_vec()).await;
        let lease = pb::Lease::decode(&answer.messages[0][..]).unwrap();
        put(socket, "leased", b"v", lease.id).await;
        assert_eq!(get(socket, "leased").await.unwrap().unwrap().lease, lease.id);
        let stream = socket.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
        for _ in 0..5 {
            let request = pb::LeaseKeepAliveRequest { id: lease.id };
            socket.send(stream, request.encode_to_vec()).await;
            let kept = pb::Lease::decode(&socket.message(stream).await[..]).unwrap();
            assert_eq!((kept.id, kept.ttl), (lease.id, 60));
        }
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_arrives_whole() {
    if !wanted("interop::etcd::a_snapshot_arrives_whole") {
        return;
    }
    let (mut world, _data) = world().await;
    let socket = &mut world.socket;
    within(60, async {
        for n in 0..20 {
            put(socket, &format!("large/{n}"), &vec![n; 200_000], 0).await;
        }
        let answer = socket.unary("/etcdserverpb.Maintenance/Snapshot", Vec::new()).await;
        assert_eq!(answer.code(), Code::OK);
        let parts: Vec<_> =
            answer.messages.iter().map(|part| pb::SnapshotResponse::decode(&part[..]).unwrap()).collect();
        assert_eq!(parts.last().unwrap().remaining_bytes, 0);
        let whole: usize = parts.iter().map(|part| part.blob.len()).sum();
        assert!(whole > 4_000_000, "{whole} bytes are less than what was put");
        // Each part tells how much follows it; the last is a checksum beyond that count.
        let mut left = parts[0].remaining_bytes;
        for part in &parts[1..] {
            assert!(part.remaining_bytes <= left);
            left = part.remaining_bytes;
        }
    })
    .await;
}

#[tokio::test]
async fn keys_are_put_and_read_in_json_with_a_schema_from_proto_files() {
    if !wanted("etcd::keys_are_put_and_read_in_json_with_a_schema_from_proto_files") {
        return;
    }
    let (mut world, _data) = world().await;
    // "a" and "1" in base64.
    world.json("etcd", "/etcdserverpb.KV/Put", r#"{"key":"YQ==","value":"MQ=="}"#).await;
    let answer = world.json("etcd", "/etcdserverpb.KV/Range", r#"{"key":"YQ=="}"#).await;
    assert_eq!((&answer["count"], &answer["kvs"][0]["value"]), (&"1".into(), &"MQ==".into()));
    assert!(answer["header"]["revision"].is_string(), "64-bit numbers are texts: {answer}");
}
