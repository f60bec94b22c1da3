//! Sessions while the configuration changes: each lives by the rules of its begin.

use std::net::SocketAddr;

use bidiway::{
    session::{Event, Settings},
    wire::v1::ResumeFailure,
};
use http::HeaderMap;

use crate::{
    session_resume::resumable,
    support::{
        carrier::Carrier,
        http_carrier::{HttpWire, Requests, hello, open, said},
        reload::{Folder, Live},
        socket::{Lost, Socket, Wire},
        upstream::{Scripted, Waiting, echo},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";

fn config(url: &str, more: &str) -> String {
    format!(
        "reload: 100ms\nworkers: 2\nlisteners: [{{ address: 127.0.0.1:0 }}]\n\
         upstreams: {{ chat: {{ endpoints: [\"{url}\"], schema: \"off\" }} }}\n{more}\n"
    )
}

async fn websocket(address: SocketAddr, cookie: &str) -> Wire {
    let headers = [("cookie", cookie)];
    Carrier::Http1.websocket(address, "/bidiway/session", "bidiway.v1", &headers).await.into()
}

async fn session(address: SocketAddr, cookie: &str) -> Socket {
    let mut socket = Socket::new(websocket(address, cookie).await, resumable());
    socket.flush().await;
    assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
    socket
}

async fn resumed(lost: Lost, address: SocketAddr, cookie: &str) -> Socket {
    let mut socket = lost.resume(websocket(address, cookie).await).await;
    let event = socket.next_own().await;
    assert!(matches!(event, Event::Resumed { .. }), "{event:?}");
    socket
}

async fn refused(lost: Lost, address: SocketAddr, cookie: &str) {
    let mut socket = lost.resume(websocket(address, cookie).await).await;
    let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
    assert_eq!(welcome.resume_failure(), ResumeFailure::WrongPrincipal);
}

#[tokio::test]
async fn a_session_goes_on_by_the_rules_of_its_begin_when_a_reload_changes_whom_sessions_belong_to() {
    const NO_RULE: &str = "";
    const BY_COOKIE: &str = "upgrade_headers: [cookie]";
    const BY_ROUTE: &str = "routes: [{ service: \"*\", upstream: chat, cookies: { user: x-user } }]";
    let upstream = Scripted::start(echo).await;
    for (before, after) in
        [(NO_RULE, BY_COOKIE), (BY_COOKIE, NO_RULE), (NO_RULE, BY_ROUTE), (BY_ROUTE, NO_RULE)]
    {
        let folder = Folder::new();
        folder.write("edge.yaml", &config(&upstream.url, before));
        let live = Live::start(folder.path("edge.yaml"));
        let address = live.addresses[0];
        within(60, async {
            let mut ada = session(address, "user=ada").await;
            let stream = ada.open(TALK).await;
            let bobs = session(address, "user=bob").await;
            let lost = ada.cut();
            folder.write("edge.yaml", &config(&upstream.url, after));
            live.generation(2).await;
            // Who comes back is who went, on whatever carrier.
            let mut ada = resumed(lost, address, "user=ada").await;
            ada.send(stream, "one").await;
            assert_eq!(ada.message(stream).await, b"one", "{before} {after}");
            let mut headers = HeaderMap::new();
            headers.insert("cookie", "user=ada".parse().unwrap());
            let http = HttpWire::new(Requests::new(Carrier::Http1, address, headers), false);
            let mut ada = ada.cut().resume(http).await;
            assert!(matches!(ada.next_own().await, Event::Resumed { .. }), "{before} {after}");
            // And whoever could not have come back before cannot now.
            if before == NO_RULE {
                resumed(bobs.cut(), address, "user=eve").await;
            } else {
                refused(bobs.cut(), address, "user=eve").await;
            }
            // What begins now has the new rules.
            let new = session(address, "user=ada").await;
            if after == NO_RULE {
                resumed(new.cut(), address, "user=eve").await;
            } else {
                refused(new.cut(), address, "user=eve").await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn http_carriers_that_run_go_on_when_a_reload_switches_them_off() {
    let mut upstream = Waiting::start(true).await;
    let folder = Folder::new();
    folder.write("edge.yaml", &config(&upstream.server.url, ""));
    let live = Live::start(folder.path("edge.yaml"));
    let address = live.addresses[0];
    within(60, async {
        for polls in [false, true] {
            let requests = Requests::new(Carrier::Http1, address, HeaderMap::new());
            let mut stranger = requests.another();
            let mut socket = Socket::new(HttpWire::new(requests, polls), resumable());
            let one = socket.open(TALK).await;
            upstream.begun(1).await;
            folder.write("edge.yaml", &config(&upstream.server.url, "session: { fallback: false }"));
            live.generation(if polls { 4 } else { 2 }).await;
            let two = socket.open(TALK).await;
            upstream.begun(1).await;
            for stream in [one, two] {
                assert!(matches!(socket.next_of(stream).await, Event::Headers { .. }));
                socket.cancel(stream).await;
            }
            upstream.cancelled(2).await;
            // New ones are not taken, and what names none is told so too.
            let (status, text) =
                said(stranger.post("/bidiway/http/open", open(hello(Settings::default()), polls)).await)
                    .await;
            assert!(status == 404 && text.contains("session.fallback"), "{status} {text}");
            let (status, text) = said(
                stranger
                    .post("/bidiway/http/up", crate::support::http_carrier::up(&vec![7; 44].into(), 1, "x"))
                    .await,
            )
            .await;
            assert!(status == 404 && text.contains("session.fallback"), "{status} {text}");
            folder.write("edge.yaml", &config(&upstream.server.url, ""));
            live.generation(if polls { 5 } else { 3 }).await;
        }
    })
    .await;
}
