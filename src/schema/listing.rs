//! What an upstream offers, as a list for tools.

use serde::Serialize;

use super::{Schema, describe};

/// A service with its methods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceListing {
    /// `package.Service`.
    pub name: String,
    /// In the order of the .proto file.
    pub methods: Vec<MethodListing>,
    /// Why the methods are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodListing {
    /// Without the service.
    pub name: String,
    /// `unary`, `client streaming`, `server streaming` or `bidirectional`.
    pub kind: &'static str,
    /// `package.Message`.
    pub input: String,
    /// `package.Message`.
    pub output: String,
}

impl Schema {
    /// A service with its methods, or why they are not known.
    pub async fn listing(&self, service: &str) -> ServiceListing {
        let name = service.to_owned();
        let descriptors = match self.descriptors(service).await {
            Ok(descriptors) => descriptors,
            Err(error) => {
                return ServiceListing { name, methods: Vec::new(), error: Some(error.to_string()) };
            }
        };
        let methods = descriptors.pool().get_service_by_name(service).map(|service| {
            let methods = service.methods().map(|method| MethodListing {
                name: method.name().to_owned(),
                kind: describe::kind_of(&method),
                input: method.input().full_name().to_owned(),
                output: method.output().full_name().to_owned(),
            });
            methods.collect()
        });
        ServiceListing { name, methods: methods.unwrap_or_default(), error: None }
    }
}
