//! The tonic server that carries the demo services.

use std::{io, net::SocketAddr};

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    body::Body,
    transport::{Server, server::TcpIncoming},
};
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::{
    DESCRIPTORS,
    chat::Chat,
    greeter::Greeter,
    lab::Lab,
    v1::{chat_server::ChatServer, greeter_server::GreeterServer, lab_server::LabServer},
};

/// The largest message that the Lab takes: more than the proxy lets pass by default.
const MAX_MESSAGE: usize = 64 * 1024 * 1024 + 1024;

/// A request's `:authority`, for services that tell what they saw.
#[derive(Clone, Debug)]
pub(super) struct Authority(pub(super) String);

/// Trailing metadata for a unary answer, as a response extension: tonic has no way of its own to send it with OK.
#[derive(Clone, Debug)]
pub(super) struct Trailing(pub(super) HeaderMap);

/// The demo services with reflection and health, running on a port of their own. Dropped, they stop at once.
#[derive(Debug)]
pub struct Services {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Services {
    /// Starts the services on the current tokio runtime. Port 0 takes a free one.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection_v1 = reflection().build_v1().map_err(io::Error::other)?;
        let reflection_v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;

        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<GreeterServer<Greeter>>().await;
        reporter.set_serving::<ChatServer<Chat>>().await;
        reporter.set_serving::<LabServer<Lab>>().await;

        let lab = LabServer::new(Lab::default())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let server = Server::builder()
            // h2 closes a connection whose small DATA frames wait unread for long; how many may wait grows with this
            // window. The streams' own windows bound what is held.
            .initial_connection_window_size((1 << 31) - 1)
            .initial_stream_window_size(256 * 1024)
            .max_concurrent_streams(10_000)
            .layer(MapRequestLayer::new(keep_authority))
            .layer(MapResponseLayer::new(add_trailing))
            .add_service(GreeterServer::new(Greeter))
            .add_service(ChatServer::new(Chat::default()))
            .add_service(lab)
            .add_service(reflection_v1)
            .add_service(reflection_v1alpha)
            .add_service(health)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let task = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the demo services have stopped");
            }
        });
        Ok(Self { address, task })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn keep_authority(mut request: Request<Body>) -> Request<Body> {
    if let Some(authority) = request.uri().authority() {
        let authority = Authority(authority.to_string());
        request.extensions_mut().insert(authority);
    }
    request
}

fn add_trailing(mut response: Response<Body>) -> Response<Body> {
    let Some(Trailing(metadata)) = response.extensions_mut().remove() else { return response };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                trailers.extend(metadata.clone());
                http_body::Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }))
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio_stream::StreamExt;
    use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};
    use tonic_types::StatusExt;

    use super::{
        super::v1::{
            Empty, FailRequest, FieldViolation, Payload, StatsReply, StatsRequest, StreamRequest,
            lab_client::LabClient,
        },
        *,
    };

    async fn lab() -> (Services, LabClient<Channel>) {
        let services = Services::start((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let client = LabClient::connect(format!("http://{}", services.address())).await.unwrap();
        (services, client)
    }

    fn tagged<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("demo-tag", MetadataValue::from_static("test"));
        request
    }

    /// Asks for the tag's stats until they are as expected; the test's own limit is 10 seconds.
    async fn stats_until(lab: &mut LabClient<Channel>, expected: impl Fn(&StatsReply) -> bool) -> StatsReply {
        let asking = async {
            loop {
                let stats = lab.stats(StatsRequest { tag: "test".into() }).await.unwrap().into_inner();
                if expected(&stats) {
                    return stats;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), asking).await.expect("stats never came true")
    }

    #[tokio::test]
    async fn the_lab_counts_a_call_that_its_client_gives_up() {
        let (_services, mut lab) = lab().await;
        let mut other = lab.clone();
        let waiting = tokio::spawn(async move { other.wait(tagged(Empty {})).await });
        stats_until(&mut lab, |stats| stats.running == 1).await;
        waiting.abort();
        let stats = stats_until(&mut lab, |stats| stats.running == 0).await;
        assert_eq!((stats.cancelled, stats.completed), (1, 0));
    }

    #[tokio::test]
    async fn a_stream_is_numbered_and_sized_and_counts_as_completed() {
        let (_services, mut lab) = lab().await;
        let request = tagged(StreamRequest { count: 3, size: 7, interval_ms: 0 });
        let stream = lab.server_stream(request).await.unwrap().into_inner();
        let messages: Vec<_> = stream.map(|message| message.unwrap()).collect().await;
        assert_eq!(
            messages.iter().map(|m| (m.number, m.data.len())).collect::<Vec<_>>(),
            [(1, 7), (2, 7), (3, 7)]
        );
        let stats = stats_until(&mut lab, |stats| stats.running == 0).await;
        assert_eq!((stats.completed, stats.sent, stats.received), (1, 3, 1));
    }

    #[tokio::test]
    async fn bidi_answers_each_message_before_the_next_is_sent() {
        let (_services, mut lab) = lab().await;
        let (send, messages) = tokio::sync::mpsc::channel(1);
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut echoes = lab.bidi(tagged(messages)).await.unwrap().into_inner();
        for number in 1..=5 {
            send.send(Payload { number, ..Default::default() }).await.unwrap();
            assert_eq!(echoes.message().await.unwrap().unwrap().number, number);
        }
        drop(send);
        assert_eq!(echoes.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_failure_carries_what_was_ordered() {
        let (_services, mut lab) = lab().await;
        let order = FailRequest {
            code: Code::FailedPrecondition as u32,
            message: "nöt yet".into(),
            reason: "TOO_EARLY".into(),
            violations: vec![FieldViolation { field: "when".into(), description: "later".into() }],
            after: 2,
            ..Default::default()
        };
        let status = lab.fail(order.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "nöt yet"));
        assert_eq!(status.get_details_error_info().unwrap().reason, "TOO_EARLY");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "when");
        assert_eq!(status.metadata().get("demo-trailing").unwrap(), "failed");

        let mut stream = lab.fail_stream(order).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().number, 1);
        assert_eq!(stream.message().await.unwrap().unwrap().number, 2);
        assert_eq!(stream.message().await.unwrap_err().code(), Code::FailedPrecondition);
    }

    #[tokio::test]
    async fn metadata_comes_back_in_both_places_and_is_told_as_it_arrived() {
        let (_services, mut lab) = lab().await;
        let mut request = Request::new(Empty {});
        request.metadata_mut().append("demo-echo-word", MetadataValue::from_static("a"));
        request.metadata_mut().append("demo-echo-word", MetadataValue::from_static("b"));
        request.metadata_mut().insert_bin("demo-echo-raw-bin", MetadataValue::from_bytes(&[0, 255]));
        let response = lab.metadata(request).await.unwrap();
        let all =
            |name| response.metadata().get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        // A unary tonic client puts trailing in the place of initial metadata of the same name.
        assert_eq!(all("demo-initial"), ["one", "two"]);
        assert_eq!(all("demo-trailing"), ["one", "two"]);
        assert_eq!(all("demo-echo-word"), ["a", "b"]);
        let raw = response.metadata().get_bin("demo-trailing-bin").unwrap().to_bytes().unwrap();
        assert_eq!(&raw[..], [0xff, 0xfe, 0xfd, 2, 1, 0]);
        let reply = response.into_inner();
        let seen: Vec<_> = reply.entries.iter().filter(|e| e.name.starts_with("demo-")).collect();
        assert_eq!((&*seen[0].name, &seen[0].binary[..]), ("demo-echo-raw-bin", &[0, 255][..]));
        assert_eq!((&*seen[1].text, &*seen[2].text), ("a", "b"));
        assert!(reply.authority.starts_with("127.0.0.1:"), "{}", reply.authority);
    }

    #[tokio::test]
    async fn an_absurd_stream_is_refused_with_the_field_named() {
        let (_services, mut lab) = lab().await;
        let request = StreamRequest { count: 1, size: MAX_MESSAGE as u32, interval_ms: 0 };
        let status = lab.server_stream(request).await.unwrap().into_inner().message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "size");
    }
}
