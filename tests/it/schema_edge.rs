//! Schemas within a whole Bidiway: who notices reflection and who does not, and the endpoint for tools.

use bidiway::{
    demo::Services,
    downstream::{Origins, RouteSettings, ServicePattern, Settings},
    schema::Descriptors,
};
use http_body_util::BodyExt as _;

use crate::support::{
    edge::{Client, Edge, Http, WebAnswer, edge, edge_with, settings, whole},
    http::get,
    upstream::{Exchange, Scripted, echo, message},
    within,
};

/// One call over gRPC-Web, echoed.
async fn echoed(client: &mut Client, edge: &Edge) {
    let request = edge.web("/shop.Shop/Buy").body(whole(message(b"hi"))).unwrap();
    let answer = WebAnswer::read(within(5, client.send(request)).await.unwrap()).await.unwrap();
    assert_eq!((answer.status().0, answer.payloads()), (0, vec![&b"hi"[..]]));
}

fn is_reflection(exchange: &Exchange) -> bool {
    exchange.request.uri().path().starts_with("/grpc.reflection.")
}

#[tokio::test]
async fn binary_calls_ask_nothing_of_reflection() {
    let server = Scripted::start(async |exchange: Exchange| {
        assert!(!is_reflection(&exchange));
        echo(exchange).await;
    })
    .await;
    let edge = edge(&server.url).await;
    let mut client = edge.connect(Http::Two).await;
    for _ in 0..100 {
        echoed(&mut client, &edge).await;
    }
    assert_eq!((server.requests(), server.connections()), (100, 1));
}

#[tokio::test]
async fn binary_calls_do_not_notice_reflection_that_hangs() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let server = Scripted::start(move |mut exchange: Exchange| {
        let asked = asked.clone();
        async move {
            if is_reflection(&exchange) {
                let _stream = exchange.headers();
                asked.send(()).await.unwrap();
                std::future::pending().await
            } else {
                echo(exchange).await;
            }
        }
    })
    .await;
    let edge = edge_with(&server.url, Settings { schema_endpoint: true, ..settings() }).await;
    let address = edge.address;
    let waiting = tokio::spawn(async move { get(address, "/bidiway/schema?service=shop.Shop").await });
    within(5, was_asked.recv()).await.unwrap();
    let mut client = edge.connect(Http::Two).await;
    for _ in 0..100 {
        echoed(&mut client, &edge).await;
    }
    assert!(!waiting.is_finished(), "who asks for the schema waits, and nobody else");
    // Not even the connection is shared.
    assert_eq!(server.connections(), 2);
    waiting.abort();
}

/// The demo's services behind routes to one of them.
async fn greeter_only(schema_endpoint: bool) -> (Services, Edge) {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let route = |pattern| RouteSettings { pattern, ..settings().routes[0].clone() };
    let routes = vec![
        route(ServicePattern::Service("demo.v1.Greeter".into())),
        route(ServicePattern::Method("demo.v1.Lab".into(), "Unary".into())),
    ];
    let origins = Origins::parse(&["https://app.example.com"]).unwrap();
    let settings = Settings { schema_endpoint, routes, origins, ..settings() };
    let edge = edge_with(&format!("http://{}", services.address()), settings).await;
    (services, edge)
}

#[tokio::test]
async fn the_public_endpoint_serves_what_routes_serve_and_nothing_else() {
    let (_services, edge) = greeter_only(true).await;
    let get = async |path: &str| {
        let request = edge.request("GET", path).body(whole("")).unwrap();
        let response = within(10, edge.send(Http::One, request)).await;
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    };
    let (status, body) = get("/bidiway/schema").await;
    let listing: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let services = &listing["upstreams"]["chat"]["services"];
    let names: Vec<_> =
        services.as_array().unwrap().iter().map(|service| service["name"].as_str().unwrap()).collect();
    assert_eq!((status, names), (200, vec!["demo.v1.Greeter", "demo.v1.Lab"]));
    assert_eq!(
        services[0]["methods"][0],
        serde_json::json!({
            "name": "Hello", "kind": "unary", "input": "demo.v1.HelloRequest", "output": "demo.v1.HelloReply"
        })
    );

    let (status, body) = get("/bidiway/schema?service=demo.v1.Greeter").await;
    assert_eq!(status, 200);
    assert!(Descriptors::from_set(body).unwrap().describe("demo.v1.Greeter/Hello").is_some());
    let (status, body) = get("/bidiway/schema?service=demo.v1.Chat").await;
    assert_eq!((status, &body[..]), (404, &b"no route has a service \"demo.v1.Chat\"\n"[..]));
    assert_eq!(get("/bidiway/schema/chat.binpb").await.0, 200);
    let (status, body) = get("/bidiway/schema/other.binpb").await;
    assert_eq!(
        (status, &body[..]),
        (404, &b"There is no schema \"other.binpb\"; there are: chat.binpb\n"[..])
    );
    assert_eq!(get("/bidiway/index.js").await.0, 200, "the shim is served as ever");
}

#[tokio::test]
async fn the_public_endpoint_is_off_unless_asked_for_and_keeps_to_the_origins() {
    let (_services, edge) = greeter_only(false).await;
    let request = edge.request("GET", "/bidiway/schema").body(whole("")).unwrap();
    assert_eq!(edge.send(Http::One, request).await.status(), 404);

    let (_services, edge) = greeter_only(true).await;
    let ask = async |origin: &str| {
        let request =
            edge.request("GET", "/bidiway/schema").header("origin", origin).body(whole("")).unwrap();
        within(10, edge.send(Http::One, request)).await
    };
    assert_eq!(ask("https://evil.example").await.status(), 403);
    let allowed = ask("https://app.example.com").await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example.com");
}
