//! Why a schema does not have what was asked for.

use super::DescriptorsError;
use crate::wire::Code;

/// Why there is no schema for a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SchemaError {
    /// The upstream (or file) has no such service.
    #[error("upstream {upstream:?} has no service {service:?}")]
    UnknownService {
        /// The upstream's name in the configuration.
        upstream: String,
        /// `package.Service`.
        service: String,
    },
    /// The service has no such method, or the path has another form.
    #[error("upstream {upstream:?} has no method {path:?}")]
    UnknownMethod {
        /// The upstream's name in the configuration.
        upstream: String,
        /// `/package.Service/Method`.
        path: String,
    },
    /// The upstream knows no message type of this name.
    #[error("upstream {upstream:?} has no message type {type_name:?}")]
    UnknownType {
        /// The upstream's name in the configuration.
        upstream: String,
        /// `package.Message`.
        type_name: String,
    },
    /// It knows nothing of this name: no service, method, message, enum or extension.
    #[error("upstream {upstream:?} has nothing named {symbol:?}{}", meant(near.as_deref()))]
    UnknownSymbol {
        /// The upstream's name in the configuration.
        upstream: String,
        /// What was asked for.
        symbol: String,
        /// A name that it has and that is like it.
        near: Option<String>,
    },
    /// The upstream does not offer server reflection.
    #[error(
        "upstream {upstream:?} does not offer server reflection, which JSON needs; add it to the service, or give \
         the upstream's schema as a descriptor set or as .proto files"
    )]
    NoReflection {
        /// The upstream's name in the configuration.
        upstream: String,
    },
    /// Reflection failed: the upstream cannot be reached, took too long, or said so.
    #[error("reflection of upstream {upstream:?} failed: {reason}")]
    Unavailable {
        /// The upstream's name in the configuration.
        upstream: String,
        /// What went wrong.
        reason: String,
    },
    /// The descriptors do not fit together.
    #[error("the descriptors of upstream {upstream:?} cannot be used: {error}")]
    Descriptors {
        /// The upstream's name in the configuration.
        upstream: String,
        /// What is wrong with them.
        error: DescriptorsError,
    },
}

fn meant(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default()
}

impl SchemaError {
    /// The code of a call that ends for this.
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownService { .. } | Self::UnknownMethod { .. } | Self::NoReflection { .. } => {
                Code::UNIMPLEMENTED
            }
            Self::UnknownType { .. } | Self::UnknownSymbol { .. } => Code::INVALID_ARGUMENT,
            Self::Unavailable { .. } => Code::UNAVAILABLE,
            Self::Descriptors { .. } => Code::INTERNAL,
        }
    }
}
