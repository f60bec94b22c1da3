//! A server of reflection whose every answer a test decides, without a socket: so that time can be virtual.

use std::{
    convert::Infallible,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bidiway::schema::{Channel, Descriptors};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest as Question,
    server_reflection_response::MessageResponse as Answer,
    server_reflection_server::{ServerReflection, ServerReflectionServer},
};
use tower::Service as _;

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Both versions.
    Good,
    /// Only v1alpha.
    Alpha,
    /// No reflection.
    None,
    /// No answer, ever.
    Hang,
    /// UNAVAILABLE.
    Down,
    /// Bytes that are no descriptors.
    Garbage,
}

#[derive(Debug)]
pub(crate) struct Reflecting {
    mood: Mutex<Mood>,
    files: Mutex<Vec<Bytes>>,
    /// How many questions it was asked, and on how many streams.
    questions: AtomicUsize,
    pub(crate) streams: AtomicUsize,
}

/// The encoded files of a set.
pub(crate) fn files(set: &[u8]) -> Vec<Bytes> {
    let set = prost_types::FileDescriptorSet::decode(set).unwrap();
    set.file.iter().map(|file| file.encode_to_vec().into()).collect()
}

/// Compiles .proto files, given by name and text, which may import each other.
pub(crate) fn compile(test: &str, sources: &[(&str, &str)]) -> Descriptors {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("proto-{test}"));
    std::fs::create_dir_all(&folder).unwrap();
    let mut paths = Vec::new();
    for (name, text) in sources {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        paths.push(path);
    }
    Descriptors::compile(&paths, &[folder]).unwrap_or_else(|error| panic!("{error}"))
}

impl Reflecting {
    pub(crate) fn new(descriptors: &Descriptors) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(Mood::Good),
            files: Mutex::new(files(&descriptors.encode())),
            questions: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
        })
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What is deployed now.
    pub(crate) fn deploy(&self, descriptors: &Descriptors) {
        self.serve(files(&descriptors.encode()));
    }

    pub(crate) fn serve(&self, files: Vec<Bytes>) {
        *self.files.lock().unwrap() = files;
    }

    pub(crate) fn asked(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    pub(crate) fn channel(self: &Arc<Self>) -> Channel {
        let this = self.clone();
        Channel::new(tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let this = this.clone();
            Box::pin(async move {
                let mood = *this.mood.lock().unwrap();
                let alpha = request.uri().path().starts_with("/grpc.reflection.v1alpha.");
                let status = match mood {
                    Mood::None => Some(Status::unimplemented("no such service")),
                    Mood::Alpha if !alpha => Some(Status::unimplemented("no such service")),
                    Mood::Down => Some(Status::unavailable("it is down")),
                    _ => None,
                };
                if let Some(status) = status {
                    return Ok(status.into_http());
                }
                this.streams.fetch_add(1, Ordering::Relaxed);
                // The two versions are the same on the wire; the server looks at the path no more than that.
                let mut server = ServerReflectionServer::new(Server(this));
                let (mut head, body) = request.into_parts();
                head.uri = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".parse().unwrap();
                let request = http::Request::from_parts(head, body);
                // It is always ready.
                let answer: Result<_, Infallible> = server.call(request).await;
                Ok(answer.unwrap_or_else(|never| match never {}))
            })
                as Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Status>> + Send>>
        }))
    }

    fn answer(&self, question: &Question) -> Answer {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if *self.mood.lock().unwrap() == Mood::Garbage {
            return Answer::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![vec![0xff; 10]],
            });
        }
        let files = self.files.lock().unwrap().clone();
        let mut pool = DescriptorPool::new();
        let protos = files.iter().map(|file| prost_types::FileDescriptorProto::decode(file.clone()).unwrap());
        let protos: Vec<_> = protos.collect();
        let names: Vec<_> = protos.iter().map(|file| file.name().to_owned()).collect();
        // Only extensions are looked up in it; what does not fit together has none.
        let _ = pool.add_file_descriptor_protos(protos.clone());
        let file = |name: &str| {
            let at = names.iter().position(|candidate| candidate == name)?;
            let file_descriptor_proto = vec![files[at].to_vec()];
            Some(Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }))
        };
        let declares = |symbol: &str| {
            protos.iter().find(|file| {
                let full = |name: &str| format!("{}.{name}", file.package()) == symbol;
                file.service.iter().any(|service| full(service.name()))
                    || file.message_type.iter().any(|message| full(message.name()))
            })
        };
        let answer = match question {
            Question::ListServices(_) => {
                let services = protos.iter().flat_map(|file| {
                    let name = |service: &prost_types::ServiceDescriptorProto| ServiceResponse {
                        name: format!("{}.{}", file.package(), service.name()),
                    };
                    file.service.iter().map(name).collect::<Vec<_>>()
                });
                Some(Answer::ListServicesResponse(ListServiceResponse { service: services.collect() }))
            }
            Question::FileByFilename(name) => file(name),
            Question::FileContainingSymbol(symbol) => declares(symbol).and_then(|found| file(found.name())),
            Question::AllExtensionNumbersOfType(message) => pool.get_message_by_name(message).map(|found| {
                let extension_number = found.extensions().map(|e| e.number() as i32).collect();
                let base_type_name = message.clone();
                Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name,
                    extension_number,
                })
            }),
            Question::FileContainingExtension(extension) => pool
                .get_message_by_name(&extension.containing_type)
                .and_then(|message| message.get_extension(extension.extension_number as u32))
                .and_then(|extension| file(extension.parent_file().name())),
        };
        answer.unwrap_or_else(|| {
            let error_message = "not here".to_owned();
            Answer::ErrorResponse(ErrorResponse { error_code: Code::NotFound as i32, error_message })
        })
    }
}

/// The service's implementation.
struct Server(Arc<Reflecting>);

#[tonic::async_trait]
impl ServerReflection for Server {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        if *self.0.mood.lock().unwrap() == Mood::Hang {
            return std::future::pending().await;
        }
        let this = self.0.clone();
        let answers = request.into_inner().map(move |question| {
            let answer = question?.message_request.map(|question| this.answer(&question));
            Ok(ServerReflectionResponse { message_response: answer, ..Default::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
