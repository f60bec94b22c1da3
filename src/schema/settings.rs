//! Where an upstream's schema comes from.

use std::{sync::Arc, time::Duration};

use super::Descriptors;

/// An upstream's schema settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it comes from.
    pub source: Source,
    /// How often loaded services are asked for again. 5 min.
    pub refresh: Duration,
    /// The shortest time between two questions for what was not there a moment ago. 5 s.
    pub retry: Duration,
    /// How long one load may take. 10 s.
    pub timeout: Duration,
    /// The most bytes of descriptors of one service. 64 MiB.
    pub max_bytes: usize,
}

/// Where a schema comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The upstream's server reflection; `fallback` while that fails.
    Reflection {
        /// Read when the configuration was.
        fallback: Option<Arc<Descriptors>>,
    },
    /// A descriptor set, or compiled .proto files, read when the configuration was.
    Files(Arc<Descriptors>),
}

impl Settings {
    /// The defaults, for this source.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            refresh: Duration::from_secs(300),
            retry: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            max_bytes: 64 << 20,
        }
    }
}
