//! One service's snapshot.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::time::Instant;

use super::{Descriptors, Method};

/// One service as it was loaded; never changed, only replaced.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) descriptors: Arc<Descriptors>,
    /// By their short name.
    methods: HashMap<String, Arc<Method>>,
    /// Message types that were asked for besides what the service itself mentions.
    pub(super) types: BTreeSet<String>,
    /// When the upstream last said so.
    pub(super) loaded: Instant,
}

impl Service {
    /// The snapshot of the service of this name; `None` when it is not among the descriptors.
    pub(super) fn new(name: &str, descriptors: Arc<Descriptors>, types: BTreeSet<String>) -> Option<Self> {
        let service = descriptors.pool().get_service_by_name(name)?;
        let methods =
            service.methods().map(|method| (method.name().to_owned(), Arc::new(Method::new(method))));
        let methods = methods.collect();
        Some(Self { descriptors, methods, types, loaded: Instant::now() })
    }

    /// The method of this short name.
    pub(super) fn method(&self, name: &str) -> Option<Arc<Method>> {
        self.methods.get(name).cloned()
    }
}
