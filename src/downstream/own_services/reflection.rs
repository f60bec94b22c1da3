//! `grpc.reflection.v1.ServerReflection`, and v1alpha: the descriptors of the services that routes serve, from the
//! schemas of their upstreams, each file byte for byte.

use std::{
    collections::{BTreeSet, HashSet},
    pin::Pin,
    sync::{Arc, Weak},
};

use futures_util::{Stream, StreamExt};
use prost::Message;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest as Question,
        server_reflection_response::MessageResponse as Answer, server_reflection_server::ServerReflection,
    },
    v1alpha,
};

use crate::{
    downstream::{Edge, Plan},
    schema::{Descriptors, Schema},
};

/// What could not be looked at, as some upstream's schema is not there.
type Trouble = Option<String>;

/// Answers from the schemas, which load what is asked for and remember it.
#[derive(Clone, Debug)]
pub(super) struct ReflectionService {
    edge: Weak<Edge>,
    /// Of the proxy's own services.
    descriptors: Arc<Descriptors>,
}

impl ReflectionService {
    pub(super) fn new(edge: Weak<Edge>, descriptors: Arc<Descriptors>) -> Self {
        Self { edge, descriptors }
    }

    async fn answer(&self, question: Option<Question>, sent: &mut HashSet<String>) -> Answer {
        match self.edge.upgrade() {
            Some(edge) => {
                Known { plan: edge.plan(), descriptors: &self.descriptors }.answer(question, sent).await
            }
            None => failed(Code::Unavailable, "the proxy is going away"),
        }
    }

    /// A conversation: an answer to each question, in order.
    fn converse(
        &self,
        questions: impl Stream<Item = Result<ServerReflectionRequest, Status>> + Send + Unpin + 'static,
    ) -> Answers {
        let state = (self.clone(), questions, HashSet::new());
        Box::pin(futures_util::stream::unfold(state, |(service, mut questions, mut sent)| async move {
            let answer = match questions.next().await? {
                Ok(request) => {
                    let answer = service.answer(request.message_request.clone(), &mut sent).await;
                    Ok(ServerReflectionResponse {
                        valid_host: request.host.clone(),
                        original_request: Some(request),
                        message_response: Some(answer),
                    })
                }
                Err(status) => Err(status),
            };
            Some((answer, (service, questions, sent)))
        }))
    }
}

/// What there is to tell for one question.
struct Known<'a> {
    plan: Arc<Plan>,
    descriptors: &'a Descriptors,
}

impl Known<'_> {
    /// The services of a schema that routes serve.
    async fn services(&self, schema: &Schema, trouble: &mut Trouble) -> Vec<String> {
        match schema.services().await {
            Ok(mut services) => {
                services.retain(|service| {
                    let mut routes = self.plan.routes.of_service(service);
                    routes.any(|route| route.settings.main_upstream() == schema.name())
                });
                services
            }
            Err(error) => {
                *trouble = Some(error.to_string());
                Vec::new()
            }
        }
    }

    async fn list(&self) -> Answer {
        let mut trouble = None;
        let mut names: BTreeSet<String> =
            self.plan.settings.own_services.names().map(str::to_owned).collect();
        let own = names.len();
        for schema in &self.plan.schemas {
            names.extend(self.services(schema, &mut trouble).await);
        }
        match trouble {
            // Some are better than none; but none of those that were meant is an error.
            Some(trouble) if names.len() == own => failed(Code::Unavailable, trouble),
            _ => Answer::ListServicesResponse(ListServiceResponse {
                service: names.into_iter().map(|name| ServiceResponse { name }).collect(),
            }),
        }
    }

    /// The first descriptors in which something is found. Those of the service that `symbol` names come first; the
    /// others are loaded only when it is not there.
    async fn find<T>(&self, symbol: &str, look: impl Fn(&Descriptors) -> Option<T>) -> Result<T, Answer> {
        if let Some(found) = look(self.descriptors) {
            return Ok(found);
        }
        let mut trouble = None;
        let mut others = Vec::new();
        for schema in &self.plan.schemas {
            for service in self.services(schema, &mut trouble).await {
                let rest = symbol.strip_prefix(&*service);
                if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                    match schema.descriptors(&service).await {
                        Ok(descriptors) => {
                            if let Some(found) = look(&descriptors) {
                                return Ok(found);
                            }
                        }
                        Err(error) => trouble = Some(error.to_string()),
                    }
                } else {
                    others.push((schema, service));
                }
            }
        }
        for (schema, service) in others {
            match schema.descriptors(&service).await {
                Ok(descriptors) => {
                    if let Some(found) = look(&descriptors) {
                        return Ok(found);
                    }
                }
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        Err(match trouble {
            Some(trouble) => failed(Code::Unavailable, trouble),
            None => failed(Code::NotFound, "not found in what this proxy serves"),
        })
    }

    async fn answer(&self, question: Option<Question>, sent: &mut HashSet<String>) -> Answer {
        let found = match question {
            Some(Question::ListServices(_)) => return self.list().await,
            Some(Question::FileContainingSymbol(symbol)) => {
                self.find(&symbol, |all| Some(all.with_imports(&all.file_of_symbol(&symbol)?))).await
            }
            Some(Question::FileByFilename(name)) => self.find("", |all| all.try_with_imports(&name)).await,
            Some(Question::FileContainingExtension(asked)) => {
                let (base, number) = (asked.containing_type, asked.extension_number);
                let file = |all: &Descriptors| all.file_of_extension(&base, u32::try_from(number).ok()?);
                self.find("", |all| Some(all.with_imports(&file(all)?))).await
            }
            Some(Question::AllExtensionNumbersOfType(base)) => {
                return match self.find("", |all| all.extension_numbers(&base)).await {
                    Ok(numbers) => Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                        extension_number: numbers.into_iter().map(|number| number as i32).collect(),
                        base_type_name: base,
                    }),
                    Err(answer) => answer,
                };
            }
            None => return failed(Code::InvalidArgument, "the request asks for nothing"),
        };
        match found {
            Ok(files) => {
                // The file that was asked for, and those of its imports that this client has not had.
                let files = files.into_iter().enumerate();
                let fresh = files.filter(|(at, (name, _))| sent.insert(name.clone()) || *at == 0);
                let file_descriptor_proto = fresh.map(|(_, (_, bytes))| bytes.into()).collect();
                Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
            }
            Err(answer) => answer,
        }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

fn failed(code: Code, message: impl Into<String>) -> Answer {
    Answer::ErrorResponse(ErrorResponse { error_code: code.into(), error_message: message.into() })
}

#[tonic::async_trait]
impl ServerReflection for ReflectionService {
    type ServerReflectionInfoStream = Answers;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(self.converse(request.into_inner())))
    }
}

/// v1alpha has the same messages under another name.
#[tonic::async_trait]
impl v1alpha::server_reflection_server::ServerReflection for ReflectionService {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<v1alpha::ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let questions = request.into_inner().map(|question| question.and_then(|question| same(&question)));
        let answers = self.converse(questions).map(|answer| answer.and_then(|answer| same(&answer)));
        Ok(Response::new(Box::pin(answers)))
    }
}

fn same<T: Message + Default>(message: &impl Message) -> Result<T, Status> {
    T::decode(&*message.encode_to_vec()).map_err(|error| Status::internal(error.to_string()))
}
