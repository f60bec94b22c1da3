//! A service that decides about calls: Envoy's `envoy.service.auth.v3.Authorization`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

use super::{
    Authority, ExtAuthzSettings,
    authority::EXT_AUTHZ,
    ext_authz_v3::{
        Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
        OkHttpResponse, SocketAddress,
        attribute_context::{HttpRequest, Peer, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
        header_value_option::HeaderAppendAction,
    },
};
use crate::{
    upstream::{Channel, Decision, Upstream},
    wire::{Code, Outcome, metadata},
};

/// The largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest text of a denial that goes into a status, in bytes.
const MAX_TEXT: usize = 1024;

/// What the service is told of a call besides its metadata.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) peer: SocketAddr,
    pub(super) tls: bool,
    pub(super) path: Box<str>,
    pub(super) host: Option<Arc<str>>,
    pub(super) principal: Option<Arc<str>>,
}

/// The service, as one worker reaches it.
#[derive(Debug)]
pub(super) struct ExtAuthz {
    settings: Arc<ExtAuthzSettings>,
    client: AuthorizationClient<Channel>,
}

impl ExtAuthz {
    pub(super) fn new(settings: Arc<ExtAuthzSettings>, upstream: &Upstream) -> Self {
        let client = AuthorizationClient::new(upstream.channel()).max_decoding_message_size(MAX_ANSWER);
        Self { settings, client }
    }

    /// Asks, and does to the metadata what the answer says.
    pub(super) async fn check(
        &self,
        authority: &Authority,
        question: &Question,
        metadata: HeaderMap,
    ) -> Decision {
        let headers = match self.headers(&metadata) {
            Ok(headers) => headers,
            Err(outcome) => {
                authority.count_refused(EXT_AUTHZ, "unreadable");
                return Err(outcome);
            }
        };
        let request = CheckRequest { attributes: Some(attributes(question, headers)) };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(self.settings.timeout, client.check(request)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            failed => return self.failed(authority, failed.ok().and_then(Result::err), metadata),
        };
        match decide(answer, metadata) {
            Ok(metadata) => {
                authority.count_permitted();
                Ok(metadata)
            }
            Err(outcome) => {
                authority.count_refused(EXT_AUTHZ, "denied");
                Err(outcome)
            }
        }
    }

    /// There is no answer: of time, or because of this.
    fn failed(&self, authority: &Authority, status: Option<Status>, metadata: HeaderMap) -> Decision {
        authority.count_refused(EXT_AUTHZ, if status.is_some() { "failed" } else { "timeout" });
        if self.settings.allow_on_failure {
            return Ok(metadata);
        }
        let text = match status {
            Some(status) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "authorization failed");
                "the authorization service cannot be asked".to_owned()
            }
            None => format!("the authorization service did not answer within {:?}", self.settings.timeout),
        };
        Err(Box::new(Outcome::proxy(Code::UNAVAILABLE, text)))
    }

    /// What the service is told of the call's metadata. It must not decide about less than what goes upstream.
    fn headers(&self, metadata: &HeaderMap) -> Result<HashMap<String, String>, Box<Outcome>> {
        let names: Vec<&HeaderName> = match &self.settings.headers {
            Some(names) => names.iter().collect(),
            None => metadata.keys().collect(),
        };
        let mut headers = HashMap::new();
        for name in names {
            let values: Result<Vec<&str>, _> =
                metadata.get_all(name).iter().map(HeaderValue::to_str).collect();
            let Ok(values) = values else {
                let text = format!(
                    "a value of the metadata {name} is not printable ASCII, which gRPC does not allow"
                );
                return Err(Box::new(Outcome::proxy(Code::INVALID_ARGUMENT, text)));
            };
            if !values.is_empty() {
                headers.insert(name.as_str().to_owned(), values.join(","));
            }
        }
        Ok(headers)
    }
}

fn attributes(question: &Question, headers: HashMap<String, String>) -> AttributeContext {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let address = SocketAddress {
        address: question.peer.ip().to_canonical().to_string(),
        port_value: question.peer.port().into(),
    };
    AttributeContext {
        source: Some(Peer {
            address: Some(Address { socket_address: Some(address) }),
            principal: question.principal.as_deref().unwrap_or_default().to_owned(),
        }),
        request: Some(Request {
            time: Some(prost_types::Timestamp {
                seconds: now.as_secs() as i64,
                nanos: now.subsec_nanos() as i32,
            }),
            http: Some(HttpRequest {
                method: "POST".to_owned(),
                headers,
                path: question.path.clone().into(),
                host: question.host.as_deref().unwrap_or_default().to_owned(),
                scheme: if question.tls { "https" } else { "http" }.to_owned(),
                size: -1,
                protocol: "HTTP/2".to_owned(),
            }),
        }),
    }
}

/// What an answer means. Without a status it is OK, as that is what an empty one says in protobuf.
fn decide(answer: CheckResponse, mut metadata: HeaderMap) -> Decision {
    let status = answer.status.unwrap_or_default();
    if status.code == 0 {
        if let Some(HttpResponse::OkResponse(changes)) = answer.http_response {
            apply(changes, &mut metadata);
        }
        return Ok(metadata);
    }
    let denied = match answer.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied,
        _ => DeniedHttpResponse::default(),
    };
    let code = match denied.status.map(|status| status.code).and_then(|code| u16::try_from(code).ok()) {
        Some(http) if http >= 400 => Code::from_http(http),
        _ => u32::try_from(status.code)
            .ok()
            .filter(|code| (1..=16).contains(code))
            .map_or(Code::PERMISSION_DENIED, Code),
    };
    let texts = [denied.body, status.message];
    let text = texts.into_iter().find(|text| !text.is_empty());
    let mut text = text.unwrap_or_else(|| "the authorization service denied the call".to_owned());
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    let mut outcome = Outcome::proxy(code, text);
    let mut trailers = HeaderMap::new();
    for option in denied.headers {
        if let Some((name, value)) = entry(&option) {
            trailers.append(name, value);
        }
    }
    metadata::filter_response(&mut trailers);
    for (name, value) in &trailers {
        outcome.trailers.append(name, value.clone());
    }
    Err(Box::new(outcome))
}

/// Envoy's rules: first what is to be set or appended, then what is to be removed. What says neither `append` nor an
/// action replaces, as Envoy documents it for this message: what the service says must not stand beside what the client
/// has said.
fn apply(changes: OkHttpResponse, metadata: &mut HeaderMap) {
    for option in changes.headers {
        let Some((name, value)) = entry(&option) else { continue };
        let action = match option.append {
            Some(true) => None,
            Some(false) => Some(HeaderAppendAction::OverwriteIfExistsOrAdd),
            None => Some(option.append_action()),
        };
        match action {
            None => {
                metadata.append(name, value);
            }
            Some(HeaderAppendAction::AddIfAbsent) => {
                metadata.entry(name).or_insert(value);
            }
            Some(HeaderAppendAction::OverwriteIfExists) if !metadata.contains_key(&name) => {}
            Some(_) => {
                metadata.insert(name, value);
            }
        }
    }
    for name in changes.headers_to_remove {
        if let Ok(name) = HeaderName::try_from(name.as_str()) {
            metadata.remove(name);
        }
    }
}

/// An entry that may be metadata: nothing of the protocols' own.
fn entry(option: &HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let name = HeaderName::try_from(header.key.as_str()).ok().filter(metadata::may_be_passed)?;
    let raw = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let value = HeaderValue::from_bytes(raw).ok()?;
    Some((name, value))
}
