//! A method, and its messages as JSON.

use std::fmt;

use bytes::Bytes;
use prost_reflect::{MessageDescriptor, MethodDescriptor};

use super::json::{self, JsonError, JsonOptions};
use crate::wire::Status;

/// A method of an upstream. It stays as it was when a call began, whatever is refreshed meanwhile.
#[derive(Clone)]
pub struct Method {
    descriptor: MethodDescriptor,
    /// `package.Service/Method`.
    name: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

impl Method {
    pub(super) fn new(descriptor: MethodDescriptor) -> Self {
        let name = format!("{}/{}", descriptor.parent_service().full_name(), descriptor.name());
        Self { name, input: descriptor.input(), output: descriptor.output(), descriptor }
    }

    /// `package.Service/Method`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the client may send any number of messages instead of exactly one.
    pub fn client_streaming(&self) -> bool {
        self.descriptor.is_client_streaming()
    }

    /// Whether the service may answer with any number of messages instead of exactly one.
    pub fn server_streaming(&self) -> bool {
        self.descriptor.is_server_streaming()
    }

    /// The request messages' type.
    pub fn input(&self) -> &MessageDescriptor {
        &self.input
    }

    /// The response messages' type.
    pub fn output(&self) -> &MessageDescriptor {
        &self.output
    }

    /// A request message of a client, from JSON. Empty input is an error; `{}` is the empty message.
    pub fn request_to_protobuf(&self, json: &[u8], options: &JsonOptions) -> Result<Bytes, JsonError> {
        json::to_protobuf(&self.input, json, options).map_err(|error| error.of(&self.name))
    }

    /// A response message for a client, as one line of JSON.
    pub fn response_to_json(&self, protobuf: &[u8], options: &JsonOptions) -> Result<Vec<u8>, JsonError> {
        json::to_json(&self.output, protobuf, options).map_err(|error| error.of(&self.name))
    }

    /// A request message as one line of JSON: for logs, tools and tests.
    pub fn request_to_json(&self, protobuf: &[u8], options: &JsonOptions) -> Result<Vec<u8>, JsonError> {
        json::to_json(&self.input, protobuf, options).map_err(|error| error.of(&self.name))
    }

    /// A response message from JSON: for tools and tests.
    pub fn response_to_protobuf(&self, json: &[u8], options: &JsonOptions) -> Result<Bytes, JsonError> {
        json::to_protobuf(&self.output, json, options).map_err(|error| error.of(&self.name))
    }

    /// A status as JSON: `{"code":5,"message":"…","details":[…]}`, as the canonical JSON of `google.rpc.Status`.
    /// Details whose type is known, here or among `google.rpc`'s, are expanded: `{"@type":"…", fields}`; others are
    /// `{"@type":"…","value":"base64"}`. Never fails: details that cannot be decoded are left as base64.
    pub fn status_to_json(&self, status: &Status, options: &JsonOptions) -> Vec<u8> {
        json::status_to_json(Some(self.descriptor.parent_pool()), status, options)
    }
}

// By its name only: `prost-reflect`'s descriptors of recursive types print themselves without end.
impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("name", &self.name).finish_non_exhaustive()
    }
}
