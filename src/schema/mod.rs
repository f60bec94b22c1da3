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

mod describe;
mod descriptors;
mod editions;
mod error;
pub mod json;
mod listing;
mod lookup;
mod method;
mod reflection;
mod service;
mod settings;

pub use descriptors::{Descriptors, DescriptorsError};
pub use error::SchemaError;
pub use json::{FieldNames, JsonError, JsonOptions};
pub use listing::{MethodListing, ServiceListing};
pub use method::Method;
pub use reflection::{Channel, Reflection};
pub use settings::{Settings, Source};

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::telemetry::SchemaMetrics;
use reflection::{Client, ReflectionError};
use service::Service;

/// The most message types that are remembered for one service besides its own.
const MAX_TYPES: usize = 64;

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
    client: Client,
    metrics: SchemaMetrics,
    state: Mutex<State>,
}

/// The full names of services.
type Names = Arc<BTreeSet<String>>;

/// A load under way, for everybody who waits for it.
type Load<T> = futures_util::future::Shared<BoxFuture<'static, Result<T, SchemaError>>>;

#[derive(Default)]
struct State {
    services: HashMap<String, Arc<Service>>,
    /// By the service, and the message type that is wanted besides.
    loading: HashMap<(String, Option<String>), Load<Arc<Service>>>,
    listing: Option<Load<Names>>,
    /// What the upstream said last about its services, and when.
    list: Option<(Instant, Result<Names, SchemaError>)>,
    /// Loads that failed, by service. Only services that the upstream lists come here, so their number is bounded.
    failed: HashMap<String, (Instant, SchemaError)>,
    /// Whether the refreshing task runs.
    refreshing: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let loading: Vec<_> = self.loading.keys().collect();
        f.debug_struct("State")
            .field("services", &self.services)
            .field("loading", &loading)
            .finish_non_exhaustive()
    }
}

impl Schema {
    /// A schema for the upstream of this name, which loads nothing yet. Only a source that is reflection uses
    /// `reflection`.
    pub fn new(name: &str, settings: Settings, reflection: Reflection, metrics: SchemaMetrics) -> Self {
        let mut state = State::default();
        if let Source::Files(descriptors) = &settings.source {
            let services = descriptors.services().into_iter().filter_map(|service| {
                let loaded = Service::new(&service, descriptors.clone(), BTreeSet::new())?;
                Some((service, Arc::new(loaded)))
            });
            state.services = services.collect();
            metrics.had("loaded");
        }
        let client = Client::new(reflection.channel.clone(), settings.max_bytes);
        let state = Mutex::new(state);
        Self {
            shared: Arc::new(Shared { name: name.to_owned(), settings, reflection, client, metrics, state }),
        }
    }

    /// The upstream's name in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The method of `/package.Service/Method`. At once when its service is loaded; otherwise within the load's
    /// timeout. Concurrent loads of a service are one load. A caller may give up at any time.
    pub async fn method(&self, path: &str) -> Result<Arc<Method>, SchemaError> {
        let shared = &self.shared;
        let unknown = || SchemaError::UnknownMethod { upstream: shared.name.clone(), path: path.to_owned() };
        let (service, method) =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(unknown)?;
        let loaded = self.service(service).await?;
        if let Some(method) = loaded.method(method) {
            return Ok(method);
        }
        // Perhaps the service was deployed anew and has the method now.
        if shared.is_static() || loaded.loaded.elapsed() < shared.settings.retry {
            return Err(unknown());
        }
        let loaded = shared.load(service, None).await.map_err(|_| unknown())?;
        loaded.method(method).ok_or_else(unknown)
    }

    /// The same method with a schema that also holds the message type `type_name` (`package.Message`): for a
    /// [`JsonError`] with a [`missing_type`](JsonError::missing_type), a type in a `google.protobuf.Any` that the
    /// service's own files do not mention. Try once: when the upstream does not know it either, this fails.
    pub async fn method_with_type(&self, path: &str, type_name: &str) -> Result<Arc<Method>, SchemaError> {
        let shared = &self.shared;
        let unknown = || SchemaError::UnknownType {
            upstream: shared.name.clone(),
            type_name: type_name.chars().take(100).collect(),
        };
        let method = self.method(path).await?;
        let has = |method: &Method| method.input().parent_pool().get_message_by_name(type_name).is_some();
        if has(&method) {
            return Ok(method);
        }
        let is_name = !type_name.is_empty()
            && type_name.len() <= 512
            && type_name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
        let Some((service, name)) = path[1..].split_once('/') else { return Err(unknown()) };
        let of_type = format!("{service} with another type");
        {
            let state = shared.lock();
            let full = state.services.get(service).is_some_and(|loaded| loaded.types.len() >= MAX_TYPES);
            let tried =
                state.failed.get(&of_type).is_some_and(|(at, _)| at.elapsed() < shared.settings.retry);
            if !is_name || full || tried || shared.is_static() {
                return Err(unknown());
            }
        }
        match shared.load(service, Some(type_name)).await.ok().and_then(|loaded| loaded.method(name)) {
            Some(method) if has(&method) => Ok(method),
            _ => {
                // Nobody makes the upstream work by asking for what it does not have.
                shared.lock().failed.insert(of_type, (Instant::now(), unknown()));
                Err(unknown())
            }
        }
    }

    /// The full names of the upstream's services, sorted.
    pub async fn services(&self) -> Result<Vec<String>, SchemaError> {
        let shared = &self.shared;
        match &shared.settings.source {
            Source::Files(descriptors) => Ok(descriptors.services()),
            Source::Reflection { fallback } => match (shared.list().await, fallback) {
                (Ok(list), _) => Ok(list.iter().cloned().collect()),
                (Err(_), Some(fallback)) => Ok(fallback.services()),
                (Err(error), None) => Err(error),
            },
        }
    }

    /// The descriptors of a service (`package.Service`) with everything that they import.
    pub async fn descriptors(&self, service: &str) -> Result<Arc<Descriptors>, SchemaError> {
        self.service(service).await.map(|loaded| loaded.descriptors.clone())
    }

    /// An encoded `google.protobuf.FileDescriptorSet` of a service and everything that it imports, dependencies
    /// first, each file byte for byte as the upstream or file gave it; of all services with `None`.
    pub async fn descriptor_set(&self, service: Option<&str>) -> Result<Bytes, SchemaError> {
        if let Some(service) = service {
            let descriptors = self.descriptors(service).await?;
            return Ok(descriptors.encode_symbol(service).unwrap_or_default());
        }
        if let Source::Files(descriptors) = &self.shared.settings.source {
            return Ok(descriptors.encode());
        }
        self.descriptor_set_of(&self.services().await?).await
    }

    /// The same of these services.
    pub async fn descriptor_set_of(&self, services: &[String]) -> Result<Bytes, SchemaError> {
        let mut sets = Vec::new();
        for service in services {
            let descriptors = self.descriptors(service).await?;
            sets.push(descriptors.encode_symbol(service).unwrap_or_default());
        }
        Ok(Descriptors::join(&sets))
    }

    /// The service: loaded, or now.
    async fn service(&self, name: &str) -> Result<Arc<Service>, SchemaError> {
        let shared = &self.shared;
        let unknown =
            || SchemaError::UnknownService { upstream: shared.name.clone(), service: name.to_owned() };
        let failure = {
            let state = shared.lock();
            if let Some(loaded) = state.services.get(name) {
                return Ok(loaded.clone());
            }
            let failed = state.failed.get(name).filter(|(at, _)| at.elapsed() < shared.settings.retry);
            failed.map(|(_, error)| error.clone())
        };
        if shared.is_static() {
            return Err(unknown());
        }
        let error = match failure {
            Some(error) => error,
            // The list comes first, so that names that somebody makes up cost the upstream nothing.
            None => match shared.list().await {
                Ok(list) if list.contains(name) => match shared.load(name, None).await {
                    Ok(loaded) => return Ok(loaded),
                    Err(error) => error,
                },
                Ok(_) => unknown(),
                Err(error) => error,
            },
        };
        shared.fall_back(name, &error).ok_or(error)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_static(&self) -> bool {
        matches!(self.settings.source, Source::Files(_))
    }

    /// The upstream's services, as it said within the last while.
    async fn list(self: &Arc<Self>) -> Result<Names, SchemaError> {
        let listing = {
            let mut state = self.lock();
            if let Some((at, list)) = &state.list
                && at.elapsed() < self.settings.retry
            {
                return list.clone();
            }
            match &state.listing {
                Some(listing) => listing.clone(),
                None => {
                    let shared = self.clone();
                    let listing = self.run(async move {
                        let list = shared.limited("", shared.client.services()).await.map(Arc::new);
                        let mut state = shared.lock();
                        state.listing = None;
                        state.list = Some((Instant::now(), list.clone()));
                        list
                    });
                    state.listing.insert(listing).clone()
                }
            }
        };
        listing.await
    }

    /// Loads a service, anew if it is loaded already.
    async fn load(
        self: &Arc<Self>,
        name: &str,
        type_name: Option<&str>,
    ) -> Result<Arc<Service>, SchemaError> {
        let key = (name.to_owned(), type_name.map(str::to_owned));
        let load = {
            let mut state = self.lock();
            if let Some(load) = state.loading.get(&key) {
                load.clone()
            } else {
                let mut types =
                    state.services.get(name).map(|loaded| loaded.types.clone()).unwrap_or_default();
                types.extend(type_name.map(str::to_owned));
                let (shared, done) = (self.clone(), key.clone());
                let load = self.run(async move {
                    let result = shared.fetch(&done.0, types).await;
                    let mut state = shared.lock();
                    state.loading.remove(&done);
                    if let (Err(error), None) = (&result, &done.1) {
                        state.failed.insert(done.0, (Instant::now(), error.clone()));
                    }
                    result
                });
                state.loading.insert(key, load.clone());
                load
            }
        };
        load.await
    }

    /// Runs on the schema's own runtime, to the end, whoever waits for it.
    fn run<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, SchemaError>> + Send + 'static,
    ) -> Load<T> {
        let task = self.reflection.runtime.spawn(work);
        let name = self.name.clone();
        let stopped =
            move |_| SchemaError::Unavailable { upstream: name, reason: "the proxy is stopping".into() };
        task.map(|result| result.unwrap_or_else(|error| Err(stopped(error)))).boxed().shared()
    }

    /// Within the time for a load, and with the upstream's name in errors.
    async fn limited<T>(
        &self,
        symbol: &str,
        work: impl Future<Output = Result<T, ReflectionError>>,
    ) -> Result<T, SchemaError> {
        let limit = self.settings.timeout;
        let upstream = self.name.clone();
        let result = match timeout(limit, work).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(ReflectionError::Unimplemented)) => SchemaError::NoReflection { upstream },
            Ok(Err(ReflectionError::NotFound(_))) => {
                SchemaError::UnknownService { upstream, service: symbol.to_owned() }
            }
            Ok(Err(ReflectionError::Failed(reason))) => SchemaError::Unavailable { upstream, reason },
            Err(_) => SchemaError::Unavailable { upstream, reason: format!("no answer within {limit:?}") },
        };
        self.metrics.failed();
        warn!(upstream = self.name, service = symbol, error = %result, "the schema cannot be loaded");
        Err(result)
    }

    /// Asks the upstream for a service, and keeps what it says.
    async fn fetch(
        self: &Arc<Self>,
        name: &str,
        types: BTreeSet<String>,
    ) -> Result<Arc<Service>, SchemaError> {
        let begun = Instant::now();
        let files = self.limited(name, self.client.files(name, &types)).await?;
        // Thousands of files take a while, and others wait for this thread.
        let built = tokio::task::spawn_blocking(move || Descriptors::from_files(files)).await;
        let built = built.unwrap_or_else(|error| Err(DescriptorsError::NotAFile(error.to_string())));
        let fresh = built.map_err(|error| SchemaError::Descriptors { upstream: self.name.clone(), error });
        let fresh = fresh.inspect_err(|error| {
            self.metrics.failed();
            warn!(upstream = self.name, service = name, %error, "the schema cannot be used");
        })?;
        let mut state = self.lock();
        let last = state.services.get(name).cloned();
        // Services of the same files share them.
        let same = last.iter().chain(state.services.values()).find(|other| other.descriptors.same(&fresh));
        let result = match &last {
            None => "loaded",
            Some(last) if last.descriptors.same(&fresh) => "unchanged",
            Some(_) => "changed",
        };
        let descriptors = same.map_or_else(|| Arc::new(fresh), |other| other.descriptors.clone());
        let unknown =
            || SchemaError::UnknownService { upstream: self.name.clone(), service: name.to_owned() };
        let service = Arc::new(Service::new(name, descriptors, types).ok_or_else(unknown)?);
        state.services.insert(name.to_owned(), service.clone());
        state.failed.remove(name);
        self.metrics.had(result);
        if result != "unchanged" {
            info!(upstream = self.name, service = name, took = ?begun.elapsed(), "schema {result}");
        }
        self.refresh_from_now_on(&mut state);
        Ok(service)
    }

    /// The service from the file that stands in for reflection.
    fn fall_back(self: &Arc<Self>, name: &str, error: &SchemaError) -> Option<Arc<Service>> {
        let Source::Reflection { fallback: Some(fallback) } = &self.settings.source else { return None };
        let service = Arc::new(Service::new(name, fallback.clone(), BTreeSet::new())?);
        let mut state = self.lock();
        if state.services.contains_key(name) {
            return state.services.get(name).cloned();
        }
        state.services.insert(name.to_owned(), service.clone());
        info!(upstream = self.name, service = name, %error, "the schema is taken from the fallback file");
        // Reflection may work later.
        self.refresh_from_now_on(&mut state);
        Some(service)
    }

    /// Starts the task that loads anew what is loaded, once.
    fn refresh_from_now_on(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.refreshing, true) {
            self.reflection.runtime.spawn(refresh(Arc::downgrade(self), self.settings.refresh));
        }
    }
}

/// Loads anew what is loaded, on an interval, as long as somebody has the schema.
async fn refresh(shared: Weak<Shared>, interval: std::time::Duration) {
    loop {
        sleep(interval).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut names: Vec<String> = shared.lock().services.keys().cloned().collect();
        names.sort();
        for name in names {
            // A failure is counted and logged there, and leaves what was.
            let _ = shared.load(&name, None).await;
        }
    }
}
