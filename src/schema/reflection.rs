//! The client of `grpc.reflection.v1.ServerReflection`, and of v1alpha where there is no v1.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, client::Grpc};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_request::MessageRequest as Question,
    server_reflection_response::MessageResponse as Answer,
};
use tower::util::BoxCloneSyncService;

use super::descriptors::{File, bundled_file, extendable};

/// The way to the upstream's reflection service: gRPC requests in HTTP's form.
pub type Channel =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, Status>;

/// What reflection needs to run.
#[derive(Clone, Debug)]
pub struct Reflection {
    /// To the upstream, apart from the connections that calls use.
    pub channel: Channel,
    /// Where loads and refreshes run, whoever asked for them: they go on when the caller gives up.
    pub runtime: Handle,
}

/// The most files of one service, and the most extensions of one message that are asked for.
const MAX_FILES: usize = 10_000;
const MAX_EXTENSIONS: usize = 1_000;

/// How many questions are asked before their answers have come.
const AHEAD: usize = 16;

/// Why the upstream's reflection did not give what was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ReflectionError {
    #[error("the upstream has no reflection")]
    Unimplemented,
    #[error("{0}")]
    Failed(String),
    /// It has no such symbol, or not now.
    #[error("{0}")]
    NotFound(String),
}

/// Asks an upstream.
#[derive(Debug)]
pub(super) struct Client {
    channel: Channel,
    max_bytes: usize,
    /// Set when the upstream was found to have only v1alpha.
    alpha: AtomicBool,
}

impl Client {
    pub(super) fn new(channel: Channel, max_bytes: usize) -> Self {
        Self { channel, max_bytes, alpha: AtomicBool::new(false) }
    }

    /// The full names of the services.
    pub(super) async fn services(&self) -> Result<BTreeSet<String>, ReflectionError> {
        let (_, answer) = self.converse(Question::ListServices(String::new())).await?;
        match answer {
            Answer::ListServicesResponse(list) => {
                Ok(list.service.into_iter().map(|service| service.name).collect())
            }
            answer => Err(refusal(answer)),
        }
    }

    /// The file of a service with everything that it imports, the extensions of its messages, and the files of these
    /// message types.
    pub(super) async fn files(
        &self,
        service: &str,
        types: &BTreeSet<String>,
    ) -> Result<Vec<File>, ReflectionError> {
        let (mut conversation, answer) =
            self.converse(Question::FileContainingSymbol(service.to_owned())).await?;
        let mut files = HashMap::new();
        conversation.keep(answer, &mut files)?;
        for name in types {
            let answers = conversation.ask([Question::FileContainingSymbol(name.clone())]).await?;
            for answer in answers {
                conversation.keep(answer, &mut files)?;
            }
        }
        let mut absent = HashSet::new();
        let mut extended = BTreeSet::new();
        loop {
            conversation.imports(&mut files, &mut absent).await?;
            let fresh: Vec<String> =
                extendable(&files).into_iter().filter(|name| extended.insert(name.clone())).collect();
            if fresh.is_empty() {
                break;
            }
            conversation.extensions(&fresh, &mut files).await?;
        }
        Ok(files.into_values().collect())
    }

    /// Opens a stream with its first question. The two versions differ in nothing but the service's name.
    async fn converse(&self, question: Question) -> Result<(Conversation, Answer), ReflectionError> {
        let alpha = self.alpha.load(Ordering::Relaxed);
        let first = Conversation::open(self.channel.clone(), alpha, question.clone(), self.max_bytes).await;
        match first {
            Ok(opened) => Ok(opened),
            // Some servers say something else than UNIMPLEMENTED for a service that they do not have.
            Err(status)
                if matches!(
                    status.code(),
                    Code::Unimplemented | Code::Unknown | Code::NotFound | Code::Internal
                ) =>
            {
                match Conversation::open(self.channel.clone(), !alpha, question, self.max_bytes).await {
                    Ok(opened) => {
                        self.alpha.store(!alpha, Ordering::Relaxed);
                        Ok(opened)
                    }
                    Err(other) if other.code() == Code::Unimplemented => Err(failure(&status)),
                    Err(other) => Err(failure(&other)),
                }
            }
            Err(status) => Err(failure(&status)),
        }
    }
}

fn failure(status: &Status) -> ReflectionError {
    match status.code() {
        Code::Unimplemented => ReflectionError::Unimplemented,
        code => ReflectionError::Failed(format!("{code:?}: {}", status.message())),
    }
}

fn refusal(answer: Answer) -> ReflectionError {
    match answer {
        Answer::ErrorResponse(ErrorResponse { error_code, error_message }) => {
            ReflectionError::NotFound(format!("{:?}: {error_message}", Code::from_i32(error_code)))
        }
        _ => ReflectionError::Failed("the upstream answered another question than it was asked".into()),
    }
}

/// One stream of questions and answers.
struct Conversation {
    questions: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
    /// How many bytes of files may still come.
    budget: usize,
}

impl Conversation {
    async fn open(
        channel: Channel,
        alpha: bool,
        question: Question,
        max_bytes: usize,
    ) -> Result<(Self, Answer), Status> {
        let path = PathAndQuery::from_static(if alpha {
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        } else {
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        });
        let (questions, stream) = mpsc::channel(AHEAD);
        // Before the stream is opened: some servers answer nothing, not even with headers, before they are asked.
        let _ = questions.try_send(request(question));
        let answers = answers(channel, path, stream, max_bytes).await?;
        let mut conversation = Self { questions, answers, budget: max_bytes };
        let answer = conversation.answer().await?;
        Ok((conversation, answer))
    }

    async fn answer(&mut self) -> Result<Answer, Status> {
        let answer = self.answers.message().await?;
        let answer = answer.and_then(|answer| answer.message_response);
        answer.ok_or_else(|| Status::internal("the upstream ended the stream without an answer"))
    }

    /// Asks several questions; the answers are in the same order.
    async fn ask(
        &mut self,
        questions: impl IntoIterator<Item = Question>,
    ) -> Result<Vec<Answer>, ReflectionError> {
        let mut answers = Vec::new();
        let mut waiting = 0;
        for question in questions {
            if waiting == AHEAD {
                answers.push(self.answer().await.map_err(|status| failure(&status))?);
                waiting -= 1;
            }
            // At most `AHEAD` are under way, so there is room, unless the stream is gone: then the answer says why.
            let _ = self.questions.try_send(request(question));
            waiting += 1;
        }
        for _ in 0..waiting {
            answers.push(self.answer().await.map_err(|status| failure(&status))?);
        }
        Ok(answers)
    }

    /// Keeps the files of an answer.
    fn keep(&mut self, answer: Answer, files: &mut HashMap<String, File>) -> Result<(), ReflectionError> {
        let Answer::FileDescriptorResponse(response) = answer else { return Err(refusal(answer)) };
        for bytes in response.file_descriptor_proto {
            let file =
                File::decode(Bytes::from(bytes)).map_err(|e| ReflectionError::Failed(e.to_string()))?;
            if files.contains_key(&file.head.name) {
                continue;
            }
            self.budget = self.budget.checked_sub(file.bytes.len()).ok_or_else(|| {
                ReflectionError::Failed("the descriptors of this service are too large".into())
            })?;
            if files.len() == MAX_FILES {
                return Err(ReflectionError::Failed("this service imports too many files".into()));
            }
            files.insert(file.head.name.clone(), file);
        }
        Ok(())
    }

    /// Fetches what is imported and not there yet. What the upstream does not have goes to `absent`.
    async fn imports(
        &mut self,
        files: &mut HashMap<String, File>,
        absent: &mut HashSet<String>,
    ) -> Result<(), ReflectionError> {
        loop {
            let wanted = files.values().flat_map(|file| &file.head.dependency);
            let wanted = wanted.filter(|name| !files.contains_key(*name) && !absent.contains(*name));
            // The types of google.protobuf are the same everywhere.
            let (own, wanted): (BTreeSet<String>, BTreeSet<String>) = wanted
                .cloned()
                .partition(|name| name.starts_with("google/protobuf/") && bundled_file(name).is_some());
            absent.extend(own);
            if wanted.is_empty() {
                return Ok(());
            }
            let answers = self.ask(wanted.iter().cloned().map(Question::FileByFilename)).await?;
            for (name, answer) in wanted.into_iter().zip(answers) {
                match self.keep(answer, files) {
                    Ok(()) if files.contains_key(&name) => {}
                    Ok(()) | Err(ReflectionError::NotFound(_)) => drop(absent.insert(name)),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Fetches the files that extend these messages. An upstream that cannot tell has none.
    async fn extensions(
        &mut self,
        messages: &[String],
        files: &mut HashMap<String, File>,
    ) -> Result<(), ReflectionError> {
        let answers = self.ask(messages.iter().cloned().map(Question::AllExtensionNumbersOfType)).await?;
        let mut questions = Vec::new();
        for (message, answer) in messages.iter().zip(answers) {
            if let Answer::AllExtensionNumbersResponse(numbers) = answer {
                let numbers = numbers.extension_number.into_iter().take(MAX_EXTENSIONS);
                questions.extend(numbers.map(|extension_number| {
                    let containing_type = message.clone();
                    Question::FileContainingExtension(ExtensionRequest { containing_type, extension_number })
                }));
            }
        }
        for answer in self.ask(questions).await? {
            match self.keep(answer, files) {
                Ok(()) | Err(ReflectionError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens the stream. Boxed, as the compiler does not see in a larger future that what tonic makes here is `Send`.
fn answers(
    channel: Channel,
    path: PathAndQuery,
    questions: mpsc::Receiver<ServerReflectionRequest>,
    max_bytes: usize,
) -> BoxFuture<'static, Result<Streaming<ServerReflectionResponse>, Status>> {
    Box::pin(async move {
        let mut client = Grpc::new(channel).max_decoding_message_size(max_bytes);
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let questions = tonic::Request::new(ReceiverStream::new(questions));
        Ok(client.streaming(questions, path, codec).await?.into_inner())
    })
}

fn request(question: Question) -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(question) }
}

/// Checks at build time that both versions are the same on the wire, as far as types can tell.
#[cfg(test)]
mod tests {
    use prost_reflect::prost::Message as _;

    use super::*;

    #[test]
    fn the_two_versions_are_the_same_on_the_wire() {
        use tonic_reflection::pb::v1alpha;
        let question = request(Question::FileContainingExtension(ExtensionRequest {
            containing_type: "a.B".into(),
            extension_number: 7,
        }));
        let alpha = v1alpha::ServerReflectionRequest::decode(&*question.encode_to_vec()).unwrap();
        assert_eq!(
            alpha.message_request,
            Some(v1alpha::server_reflection_request::MessageRequest::FileContainingExtension(
                v1alpha::ExtensionRequest { containing_type: "a.B".into(), extension_number: 7 }
            ))
        );
        let answer = v1alpha::ServerReflectionResponse {
            message_response: Some(v1alpha::server_reflection_response::MessageResponse::ErrorResponse(
                v1alpha::ErrorResponse { error_code: 5, error_message: "no".into() },
            )),
            ..Default::default()
        };
        let v1 = ServerReflectionResponse::decode(&*answer.encode_to_vec()).unwrap();
        let expected = ErrorResponse { error_code: 5, error_message: "no".into() };
        assert_eq!(v1.message_response, Some(Answer::ErrorResponse(expected)));
    }
}
