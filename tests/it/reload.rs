//! Configuration and certificates change while calls run.

use std::{fs, os::unix::fs::symlink, sync::Arc, time::Duration};

use bidiway::{session::Settings, upstream::provider, wire::Code};
use bytes::Bytes;
use h2::server::Builder;
use http::Request;
use http_body_util::BodyExt;
use prost::Message as _;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    carrier::{Carrier, tcp},
    edge::{Client, Http, open, whole},
    http::get,
    reload::{Folder, Live},
    socket::Socket,
    upstream::{Exchange, Scripted, end, message, send},
    within,
};

/// Answers each piece of the request with it, behind its own name, until the request ends.
async fn parrot(name: &'static str) -> Scripted {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(10_000);
    Scripted::with(builder, move |mut exchange: Exchange| async move {
        let mut stream = exchange.headers();
        while let Some(bytes) = exchange.read().await {
            // What comes is one message here, with its prefix of five bytes; or nothing, with the end.
            let Some(payload) = bytes.get(5..) else { continue };
            let text = [name.as_bytes(), b":", payload].concat();
            send(&mut stream, message(&text)).await;
        }
        end(&mut stream, 0);
    })
    .await
}

fn config(upstreams: &[(&str, &str)], routes: &[(&str, &str)], more: &str) -> String {
    let upstreams: Vec<_> = upstreams
        .iter()
        .map(|(name, url)| format!("  {name}: {{ endpoints: [\"{url}\"], schema: \"off\" }}"))
        .collect();
    let routes: Vec<_> = routes
        .iter()
        .map(|(service, name)| format!("  - {{ service: \"{service}\", upstream: {name} }}"))
        .collect();
    format!(
        "reload: 100ms\nworkers: 2\nupstreams:\n{}\nroutes:\n{}\n{more}",
        upstreams.join("\n"),
        routes.join("\n")
    )
}

const PLAIN: &str = "listeners: [{ address: 127.0.0.1:0 }]\n";
const TLS: &str = "listeners:
  - address: 127.0.0.1:0
  - address: 127.0.0.1:0
    tls: { certificates: [{ chain: edge.pem, key: edge.key }] }
limits: { http2_streams: 1000, header_timeout: 10m }
session: { streams: 1000, ping: 5m }
";

/// A client that trusts these certificates, and remembers its TLS sessions.
fn trusting(certificates: &[&CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for &certificate in certificates {
        roots.add(certificate.clone()).unwrap();
    }
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

async fn handshake_as(live: &Live, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = tcp(live.addresses[1]).await;
    TlsConnector::from(client.clone()).connect(ServerName::try_from("edge.test").unwrap(), socket).await
}

async fn handshake(live: &Live, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    handshake_as(live, &trusting(&[trusted])).await
}

/// A gRPC-Web call that goes on.
struct Web {
    up: mpsc::Sender<Bytes>,
    down: hyper::body::Incoming,
}

impl Web {
    async fn open(client: &mut Client, live: &Live, path: &str) -> Self {
        let (up, body) = open();
        let request = Request::post(format!("http://{}{path}", live.addresses[0]))
            .header("content-type", "application/grpc-web+proto")
            .body(body);
        let response = client.send(request.unwrap()).await.unwrap();
        Self { up, down: response.into_body() }
    }

    async fn says(&mut self, text: &str) -> Vec<u8> {
        self.up.send(message(text.as_bytes())).await.unwrap();
        let mut all = Vec::new();
        while all.len() < 5 || all.len() < 5 + all[4] as usize {
            all.extend_from_slice(&self.down.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        all.split_off(5)
    }
}

async fn session(live: &Live) -> Socket {
    Carrier::Http1.connect_to(live.addresses[0], Settings { max_streams: 1000, ..Settings::default() }).await
}

/// What a new call in this session is answered with.
async fn asked(session: &mut Socket, path: &str) -> String {
    let answer = session.unary(path, &b"x"[..]).await;
    match answer.messages.first() {
        Some(message) => String::from_utf8(message.clone()).unwrap(),
        None => format!("{}: {}", answer.trailers.code, answer.trailers.message),
    }
}

#[tokio::test]
async fn twenty_rotations_under_a_thousand_streams_drop_none_and_new_calls_take_the_new_routes() {
    const SESSIONS: usize = 10;
    const STREAMS: usize = 60;
    const CLIENTS: usize = 4;
    const WEB: usize = 100;
    let (stay, blue, green) = (parrot("stay").await, parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    let mut certificate = folder.certificate("edge", "edge.test");
    let stays = ("stay", stay.url.as_str());
    let with = |name: &'static str, url: &str| {
        config(&[stays, (name, url)], &[("old.Echo", "stay"), ("new.Echo", name)], TLS)
    };
    folder.write("bidiway.yaml", &with("blue", &blue.url));
    let live = Live::start(folder.path("bidiway.yaml"));

    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut session = session(&live).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(session.open("/old.Echo/Talk").await);
        }
        sessions.push((session, streams));
    }
    let mut web = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(live.addresses[0], Http::Two).await;
        for _ in 0..WEB {
            web.push(Web::open(&mut client, &live, "/old.Echo/Talk").await);
        }
    }
    let mut kept = Vec::new();
    within(120, async {
        for round in 0..=20_u64 {
            if round > 0 {
                certificate = folder.certificate("edge", "edge.test");
                let (name, url) = if round % 2 == 0 { ("blue", &blue.url) } else { ("green", &green.url) };
                folder.write("bidiway.yaml", &with(name, url));
                // Certificate, key and file may be seen one by one: then there are more generations.
                let name = if round % 2 == 0 { "blue:x" } else { "green:x" };
                while asked(&mut sessions[0].0, "/new.Echo/Talk").await != name {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            let text = format!("round {round}");
            for (session, streams) in &mut sessions {
                for &stream in &*streams {
                    session.send(stream, text.clone()).await;
                }
                for &stream in &*streams {
                    assert_eq!(session.message(stream).await, format!("stay:{text}").as_bytes());
                }
            }
            for call in &mut web {
                assert_eq!(call.says(&text).await, format!("stay:{text}").as_bytes());
            }
            // The new certificate is shown to new handshakes, and the connections with old ones live.
            let mut shown = handshake(&live, &certificate).await;
            while shown.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                shown = handshake(&live, &certificate).await;
            }
            kept.push(shown.unwrap());
        }
    })
    .await;
    let streams = live.metric("bidiway_calls_active{route=\"old.Echo\",dialect=\"session\"}")
        + live.metric("bidiway_calls_active{route=\"old.Echo\",dialect=\"grpc-web\"}");
    assert_eq!(streams, 1000);
    assert!(live.metric("bidiway_config_reloads_total{result=\"applied\"}") >= 20);
    // Connections with certificates that are long gone serve as before.
    for connection in &mut kept {
        connection
            .write_all(b"GET /nothing HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        within(10, connection.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
    // One for each worker: upstreams that did not change keep their connections.
    assert!(stay.connections() <= 2, "{}", stay.connections());
    assert_eq!(live.metric("bidiway_sessions_open"), SESSIONS as u64);
}

#[tokio::test]
async fn an_open_session_takes_the_routes_of_its_host_that_a_reload_brings() {
    let (blue, green) = (parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    let upstreams = [("blue", blue.url.as_str()), ("green", green.url.as_str())];
    let old = config(&upstreams, &[("*", "blue")], PLAIN);
    folder.write("a.yaml", &old);
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    let running = session.open("/a.B/Talk").await;
    session.send(running, &b"1"[..]).await;
    assert_eq!(session.message(running).await, b"blue:1");

    let host = "routes:\n  - { service: \"*\", hosts: [127.0.0.1], upstream: green }\n  - { service: a.B, hosts: [other.test], upstream: blue }";
    folder.write("a.yaml", &old.replace("routes:", host));
    live.generation(2).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "green:x");
    session.send(running, &b"2"[..]).await;
    assert_eq!(session.message(running).await, b"blue:2");

    folder.write("a.yaml", &old);
    live.generation(3).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "blue:x");
}

#[tokio::test]
async fn a_removed_upstream_closes_when_its_last_call_ends() {
    let (blue, green) = (parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    folder.write("a.yaml", &config(&[("blue", &blue.url)], &[("*", "blue")], PLAIN));
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    let (long, idle) = (session.open("/a.B/Talk").await, session.open("/a.B/Talk").await);
    session.send(long, &b"1"[..]).await;
    assert_eq!(session.message(long).await, b"blue:1");
    session.cancel(idle).await;

    folder.write("a.yaml", &config(&[("green", &green.url)], &[("*", "green")], PLAIN));
    live.generation(2).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "green:x");
    session.send(long, &b"2"[..]).await;
    assert_eq!(session.message(long).await, b"blue:2");
    assert_eq!(live.metric("bidiway_upstream_connections{upstream=\"blue\"}"), 1);

    session.finish(long).await;
    session.answer(long).await;
    live.shows("bidiway_upstream_connections{upstream=\"blue\"}", 0).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "green:x");
}

#[tokio::test]
async fn broken_files_change_nothing_are_counted_once_and_shown_and_the_next_good_ones_hold() {
    let (blue, green) = (parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    let old = folder.certificate("edge", "edge.test");
    let admin = format!("admin: {{ address: 127.0.0.1:0 }}\n{TLS}");
    let good = config(&[("blue", &blue.url)], &[("*", "blue")], &admin);
    folder.write("a.yaml", &good);
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    let failed = "bidiway_config_reloads_total{result=\"failed\"}";

    folder.write("a.yaml", &good.replace("upstream: blue", "upstream: bleu"));
    live.shows(failed, 1).await;
    assert_eq!(live.metric("bidiway_config_last_reload_successful"), 0);
    let (_, page) = get(live.admin.unwrap(), "/config").await.unwrap();
    assert!(page.contains("there is no upstream \\\"bleu\\\" (did you mean `blue`?)"), "{page}");
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "blue:x");
    // A certificate without its key, and a missing file.
    fs::write(folder.path("edge.pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        .unwrap();
    folder.write("a.yaml", &good);
    live.shows(failed, 2).await;
    fs::remove_file(folder.path("edge.pem")).unwrap();
    live.shows(failed, 3).await;
    handshake(&live, &old).await.unwrap();
    assert_eq!(live.metric("bidiway_config_generation"), 1);
    // Asked, it says so again.
    live.asked.notify_one();
    live.shows(failed, 4).await;

    let new = folder.certificate("edge", "edge.test");
    folder.write("a.yaml", &config(&[("green", &green.url)], &[("*", "green")], &admin));
    live.shows("bidiway_config_last_reload_successful", 1).await;
    within(20, async {
        while asked(&mut session, "/a.B/Talk").await != "green:x" {}
        handshake(&live, &new).await.unwrap();
        assert!(handshake(&live, &old).await.is_err(), "the old one is shown no more");
    })
    .await;
    let (_, page) = get(live.admin.unwrap(), "/config").await.unwrap();
    assert!(page.contains("\"error\": null"), "{page}");
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_a_change_as_with_mounted_config_maps() {
    let (blue, green) = (parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    for (day, name, url) in [("monday", "blue", &blue.url), ("tuesday", "green", &green.url)] {
        fs::create_dir(folder.path(day)).unwrap();
        fs::write(folder.path(day).join("a.yaml"), config(&[(name, url)], &[("*", name)], PLAIN)).unwrap();
    }
    symlink("monday", folder.path("..data")).unwrap();
    symlink("..data/a.yaml", folder.path("a.yaml")).unwrap();
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "blue:x");

    symlink("tuesday", folder.path("..new")).unwrap();
    fs::rename(folder.path("..new"), folder.path("..data")).unwrap();
    live.generation(2).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "green:x");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_holds() {
    let (blue, green) = (parrot("blue").await, parrot("green").await);
    let folder = Folder::new();
    let admin = format!("admin: {{ address: 127.0.0.1:0 }}\n{PLAIN}");
    folder.write("a.yaml", &config(&[("blue", &blue.url)], &[("*", "blue")], &admin));
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    let new = config(&[("green", &green.url)], &[("*", "green")], &admin);
    let new = new
        .replace("workers: 2", "workers: 3\ninstance: b")
        .replace("[{ address: 127.0.0.1:0 }]", "[{ address: 127.0.0.1:1 }]");
    folder.write("a.yaml", &new);
    live.generation(2).await;
    assert_eq!(asked(&mut session, "/a.B/Talk").await, "green:x");
    assert_eq!(live.metric("bidiway_config_restart_needed"), 3);
    let (_, page) = get(live.admin.unwrap(), "/config").await.unwrap();
    for key in ["listeners (", "workers", "instance"] {
        assert!(page.contains(key), "{page}");
    }
}

#[tokio::test]
async fn new_requests_on_an_old_connection_go_by_the_new_settings() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    let text = config(&[("blue", &blue.url)], &[("*", "blue")], PLAIN);
    folder.write("a.yaml", &text);
    let live = Live::start(folder.path("a.yaml"));
    let mut client = Client::connect(live.addresses[0], Http::Two).await;
    let call = |origin: &str| {
        Request::post(format!("http://{}/a.B/C", live.addresses[0]))
            .header("content-type", "application/grpc-web+proto")
            .header("origin", origin)
            .body(whole(message(b"x")))
            .unwrap()
    };
    let mut status =
        async |origin| client.send(call(origin)).await.unwrap().headers().get("grpc-status").is_some();
    assert!(status("https://app.test").await, "refused");
    folder.write("a.yaml", &format!("origins: [\"https://app.test\"]\n{text}"));
    live.generation(2).await;
    assert!(!status("https://app.test").await, "a call");
    folder.write("a.yaml", &text);
    live.generation(3).await;
    assert!(status("https://app.test").await, "refused again");
}

#[tokio::test]
async fn tls_sessions_are_resumed_across_a_reload_unless_clients_have_to_show_other_certificates() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    let old = folder.certificate("edge", "edge.test");
    let text = config(&[("blue", &blue.url)], &[("*", "blue")], TLS);
    folder.write("a.yaml", &text);
    let live = Live::start(folder.path("a.yaml"));
    let client = |trusted: &[&CertificateDer<'static>]| trusting(trusted);
    // How the handshake went; a request, so that tickets have come by its answer.
    let connect = async |client: &Arc<ClientConfig>| {
        let mut stream = handshake_as(&live, client).await?;
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(kind)
    };
    let expires = live.metrics.encode();
    let expires =
        expires.lines().filter(|line| line.starts_with("bidiway_certificate_expiry_timestamp_seconds{"));
    assert_eq!(expires.count(), 1);

    let ada = client(&[&old]);
    assert_eq!(connect(&ada).await.unwrap(), HandshakeKind::Full);
    assert_eq!(connect(&ada).await.unwrap(), HandshakeKind::Resumed);
    let new = folder.certificate("edge", "edge.test");
    let both = client(&[&old, &new]);
    within(20, async { while handshake(&live, &new).await.is_err() {} }).await;
    assert_eq!(connect(&ada).await.unwrap(), HandshakeKind::Resumed, "the old certificate was as good");
    assert_eq!(connect(&both).await.unwrap(), HandshakeKind::Full);
    assert_eq!(connect(&both).await.unwrap(), HandshakeKind::Resumed);

    let generation = live.metric("bidiway_config_generation");
    folder.write("a.yaml", &text.replace("tls: {", "tls: { client_ca: edge.pem, client_auth: optional, "));
    live.generation(generation + 1).await;
    assert_eq!(connect(&both).await.unwrap(), HandshakeKind::Full, "it is asked for a certificate again");
}

const HEALTH: &str = "/grpc.health.v1.Health";

/// A question for the health of a service, as bytes.
fn health_of(service: &str) -> Bytes {
    tonic_health::pb::HealthCheckRequest { service: service.to_owned() }.encode_to_vec().into()
}

/// One upstream, which is another one with each number; and the services of the proxy's own.
fn with_own_services(url: &str, number: u64) -> String {
    let text = config(&[("blue", url)], &[("a.Echo", "blue")], PLAIN);
    let own = "serve: { health: true, reflection: true }";
    format!("{own}\n{}", text.replace("schema:", &format!("connect_timeout: {}s, schema:", number + 1)))
}

#[tokio::test]
async fn reloads_leave_no_connections_behind_where_the_proxy_has_services_of_its_own() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    folder.write("a.yaml", &with_own_services(&blue.url, 1));
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    for generation in 1..=6 {
        folder.write("a.yaml", &with_own_services(&blue.url, generation));
        live.generation(generation).await;
        assert_eq!(asked(&mut session, "/a.Echo/X").await, "blue:x");
        let answer = session.unary(&format!("{HEALTH}/Check"), health_of("")).await;
        assert_eq!(answer.code(), Code::OK);
    }
    assert_eq!(live.metric("bidiway_upstream_connects_total{upstream=\"blue\"}"), 6, "each was another one");
    live.shows("bidiway_upstream_connections{upstream=\"blue\"}", 1).await;
}

#[tokio::test]
async fn a_watch_of_the_proxys_own_health_goes_by_the_routes_that_there_are_and_holds_no_others() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    folder.write("a.yaml", &with_own_services(&blue.url, 1));
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    let watch = session.unary_request(&format!("{HEALTH}/Watch"), health_of("a.Echo")).await;
    let mut status = async || {
        let message = within(30, session.message(watch)).await;
        tonic_health::pb::HealthCheckResponse::decode(&*message).unwrap().status()
    };
    assert_eq!(status().await, ServingStatus::NotServing, "its upstream answers with nonsense");
    live.shows("bidiway_upstream_connections{upstream=\"blue\"}", 1).await;
    folder.write("a.yaml", &with_own_services(&blue.url, 1).replace("a.Echo", "b.Echo"));
    live.generation(2).await;
    assert_eq!(status().await, ServingStatus::ServiceUnknown);
    folder.write("a.yaml", &with_own_services(&blue.url, 2).replace("a.Echo", "b.Echo"));
    live.generation(3).await;
    live.shows("bidiway_upstream_connections{upstream=\"blue\"}", 0).await;
}

#[tokio::test]
async fn what_is_used_of_a_routes_limits_stays_used_when_the_configuration_changes() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    let limited = |calls: u32| {
        let text = config(&[("blue", &blue.url)], &[("a.Echo", "blue")], PLAIN);
        let limits = format!("upstream: blue, limits: {{ concurrent_calls: {calls} }} }}");
        text.replace("upstream: blue }", &limits)
    };
    folder.write("a.yaml", &limited(2));
    let live = Live::start(folder.path("a.yaml"));
    let mut session = session(&live).await;
    for _ in 0..2 {
        let stream = session.open("/a.Echo/X").await;
        session.send(stream, "held").await;
        assert_eq!(session.message(stream).await, b"blue:held");
    }
    let refused = |answer: String| assert!(answer.contains("open calls, which is the limit"), "{answer}");
    refused(asked(&mut session, "/a.Echo/X").await);
    folder.write("a.yaml", &format!("{}# another\n", limited(2)));
    live.generation(2).await;
    refused(asked(&mut session, "/a.Echo/X").await);
    folder.write("a.yaml", &limited(3));
    live.generation(3).await;
    let third = session.open("/a.Echo/X").await;
    session.send(third, "held").await;
    assert_eq!(session.message(third).await, b"blue:held");
    refused(asked(&mut session, "/a.Echo/X").await);
    folder.write("a.yaml", &limited(1));
    live.generation(4).await;
    session.finish(third).await;
    assert_eq!(session.answer(third).await.code(), Code::OK);
    refused(asked(&mut session, "/a.Echo/X").await);
}

#[tokio::test]
async fn readiness_ends_while_new_connections_are_closed() {
    let blue = parrot("blue").await;
    let folder = Folder::new();
    let text = config(&[("blue", &blue.url)], &[("a.Echo", "blue")], PLAIN);
    let more = "admin: { address: 127.0.0.1:0 }\noverload: { max_memory: 1MiB }\n";
    folder.write("a.yaml", &format!("{more}{text}"));
    let live = Live::start(folder.path("a.yaml"));
    live.shows("bidiway_overload{resource=\"memory\"}", 1).await;
    within(10, async { while get(live.admin.unwrap(), "/readyz").await.unwrap().0 != 503 {} }).await;
}
