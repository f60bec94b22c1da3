//! From what the file says to settings for every floor: defaults, and the checks that need more than one value.

mod peers;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration as Time,
};

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
};

use super::{
    Config, Duration, LogSettings, Size,
    choice::{Defaults, Drain, Keepalive, SchemaSource, UnknownFields},
    file::{
        DrainTimes, File, Json, Limits, Listener, ListenerTls, LogMessages, Route, SchemaFiles,
        SchemaReflection, Session, Upstream, UpstreamTls,
    },
    node::Position,
    pattern,
    problem::{Problems, did_you_mean},
    read::{At, Named},
};
use crate::{
    downstream::{self, InvalidOrigin, MessageLog, Origins, RouteSettings, ServicePattern, SessionSettings},
    schema::{self, Descriptors, JsonOptions, Source},
    server::{
        self, DrainSettings, ListenerSettings,
        tls::{self, Certificate, ClientAuth, TlsError},
    },
    session::{INITIAL_CREDIT, LEAST_REPLAY},
    telemetry::log::check_filter,
    upstream::{self, ClientPem, ClientTls, Endpoint},
    wire::metadata,
};

/// How long calls may go on after the signal to stop. Kubernetes kills after 30 s, and the last words take time too.
const DRAIN: Time = Time::from_secs(25);

/// How long balancers may take to learn of the signal, and over how long clients are sent elsewhere.
const DRAIN_GRACE: Time = Time::from_secs(5);
const DRAIN_SPREAD: Time = Time::from_secs(5);

/// Open connections of the process.
const MAX_CONNECTIONS: u32 = 50_000;

/// gRPC's length prefix has 32 bits.
const LARGEST_MESSAGE: u64 = u32::MAX as u64;

/// Credit beyond this is no flow control any more.
const LARGEST_CREDIT: u64 = 16 << 20;

/// A session that keeps more is no session but a file.
const LARGEST_REPLAY: u64 = 64 << 20;

/// What browsers add to requests by themselves, whatever page makes them.
const AMBIENT: [HeaderName; 2] = [COOKIE, AUTHORIZATION];

/// HTTP/2 windows and header lists.
const LARGEST_WINDOW: u64 = (1 << 31) - 1;

/// Settings from a file that was read without problems. `base` is where relative paths start.
pub(super) fn build(file: File, base: &Path, problems: &mut Problems) -> Option<Config> {
    let mut b = Builder { base, problems };
    let listeners = b.listeners(&file.listeners.0);
    let origins = b.origins(file.origins.as_deref().unwrap_or_default(), &file.listeners.0);
    let upgrade_headers =
        b.upgrade_headers(file.upgrade_headers.as_deref().unwrap_or_default(), file.origins.as_deref());
    let limits = b.limits(file.limits.as_ref());
    let session = b.session(file.session.as_ref());
    let peers = b.peers(&file);
    let upstreams = b.upstreams(&file.upstreams);
    let schemas = b.schemas(&file.upstreams);
    let routes =
        b.routes(file.routes.as_ref().map(|routes| &routes.0[..]), &file.upstreams, limits.max_message);
    if let Some(level) = file.log.as_ref().and_then(|log| log.level.as_ref())
        && let Err(error) = check_filter(&level.value)
    {
        b.problems.add(level.at, error);
    }
    let workers = b.workers(file.workers.as_ref());
    let drain = b.drain(file.drain.as_ref(), file.admin.is_some());
    let admin = file.admin.map(|admin| admin.address);
    if let Some(admin) = &admin
        && file.listeners.0.iter().any(|l| l.address.value == admin.value && admin.value.port() != 0)
    {
        b.problems.add(admin.at, format!("{} is a listener's address already; choose another", admin.value));
    }
    let downstream = downstream::Settings {
        origins: origins?,
        instance: file.instance,
        peers: peers?,
        upgrade_headers,
        limits,
        session,
        routes: routes?,
        schema_endpoint: file.schema_endpoint.unwrap_or_default(),
        ..Default::default()
    };
    let max_connections = file.limits.as_ref().and_then(|limits| limits.max_connections);
    let log = file.log;
    Some(Config {
        settings: server::Settings {
            listeners: listeners?,
            admin: admin.map(|admin| admin.value),
            workers,
            drain,
            max_connections: max_connections.unwrap_or(MAX_CONNECTIONS) as usize,
            downstream: Arc::new(downstream),
            upstreams: upstreams?,
            schemas: schemas?,
        },
        log: LogSettings {
            format: log.as_ref().and_then(|log| log.format).unwrap_or_default(),
            filter: log.and_then(|log| log.level).map_or_else(|| "info".into(), |level| level.value),
        },
    })
}

struct Builder<'a> {
    base: &'a Path,
    problems: &'a mut Problems,
}

impl Builder<'_> {
    /// `watched`: somebody may ask whether the process is ready.
    fn drain(&mut self, drain: Option<&At<Drain>>, watched: bool) -> DrainSettings {
        let times = drain.map(|drain| &drain.value.0);
        let given = |key: fn(&DrainTimes) -> Option<Duration>| times.and_then(key).map(|Duration(time)| time);
        let timeout = given(|times| times.timeout).unwrap_or(DRAIN);
        let grace = if watched { DRAIN_GRACE.min(timeout / 4) } else { Time::ZERO };
        let grace = given(|times| times.grace).unwrap_or(grace);
        let spread = given(|times| times.spread).unwrap_or_else(|| DRAIN_SPREAD.min(timeout / 4));
        if let Some(drain) = drain
            && grace.saturating_add(spread) > timeout
        {
            let text = format!(
                "grace ({grace:?}) and spread ({spread:?}) do not fit into the timeout ({timeout:?}), which begins \
                 with the signal too; make it longer than both together"
            );
            self.problems.add(drain.at, text);
        }
        DrainSettings { grace, spread, timeout }
    }

    fn listeners(&mut self, listeners: &[Listener]) -> Option<Vec<ListenerSettings>> {
        let mut seen: HashMap<SocketAddr, Position> = HashMap::new();
        let built: Vec<_> = listeners
            .iter()
            .map(|Listener { address, tls }| {
                if address.value.port() != 0
                    && let Some(first) = seen.insert(address.value, address.at)
                {
                    let text = format!("{} is listened on already, in line {}", address.value, first.line);
                    self.problems.add(address.at, text);
                }
                let tls = match tls {
                    None => None,
                    Some(tls) => Some(self.listener_tls(tls)?),
                };
                Some(ListenerSettings { address: address.value, tls })
            })
            .collect();
        built.into_iter().collect()
    }

    fn listener_tls(&mut self, tls: &At<ListenerTls>) -> Option<Arc<rustls::ServerConfig>> {
        let ListenerTls { certificates, client_ca, client_auth, min_version } = &tls.value;
        let loaded: Vec<_> = certificates
            .0
            .iter()
            .map(|files| {
                let result = Certificate::load(&self.path(&files.chain), &self.path(&files.key));
                result.map_err(|error| {
                    let key = self.path(&files.key);
                    let at = if concerns(&error, &key) { files.key.at } else { files.chain.at };
                    self.problems.add(at, error.to_string());
                })
            })
            .collect();
        if let (Some(auth), None) = (client_auth, client_ca) {
            self.problems
                .add(auth.at, "`client_auth` needs `client_ca`: the CA that clients' certificates come from");
        }
        let clients = match client_ca {
            None => None,
            Some(ca) => {
                let roots = tls::load_client_ca(&self.path(ca));
                let roots = roots.map_err(|error| self.problems.add(ca.at, error.to_string())).ok()?;
                Some((roots, client_auth.as_ref().map_or_else(ClientAuth::default, |auth| auth.value)))
            }
        };
        let loaded: Vec<_> = loaded.into_iter().collect::<Result<_, ()>>().ok()?;
        if loaded.is_empty() {
            return None;
        }
        tls::server_config(&loaded, clients, min_version.unwrap_or_default())
            .map_err(|error| self.problems.add(tls.at, error.to_string()))
            .ok()
    }

    fn origins(&mut self, entries: &[At<String>], listeners: &[Listener]) -> Option<Origins> {
        let by_certificate = listeners
            .iter()
            .any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.value.client_ca.is_some()));
        if let Some(any) = entries.iter().find(|entry| entry.value == "*")
            && by_certificate
        {
            self.problems.add(
                any.at,
                "\"*\" with `client_ca` would let every page on the web call with its visitor's certificate; name the \
                 origins",
            );
        }
        let texts: Vec<_> = entries.iter().map(|entry| &entry.value).collect();
        match Origins::parse(&texts) {
            Ok(origins) => Some(origins),
            Err(invalid) => {
                for entry in entries {
                    let find = |error: &&InvalidOrigin| error.text == entry.value;
                    if let Some(error) = invalid.iter().find(find) {
                        self.problems.add(entry.at, error.to_string());
                    }
                }
                None
            }
        }
    }

    fn upgrade_headers(&mut self, names: &[At<String>], origins: Option<&[At<String>]>) -> Vec<HeaderName> {
        let any_origin = origins.is_some_and(|origins| origins.iter().any(|origin| origin.value == "*"));
        let mut built: Vec<HeaderName> = Vec::new();
        for At { at, value } in names {
            let lower = value.to_ascii_lowercase();
            let Some(name) = HeaderName::try_from(&lower).ok().filter(metadata::may_be_passed) else {
                let text = match lower.as_str() {
                    "user-agent" => "user-agent is the proxy's own towards services".to_owned(),
                    _ => format!(
                        "{value:?} is no header that can be passed on: it belongs to HTTP, WebSockets or gRPC itself"
                    ),
                };
                self.problems.add(*at, text);
                continue;
            };
            if built.contains(&name) {
                self.problems.add(*at, format!("{name} is there twice"));
            }
            if any_origin && AMBIENT.contains(&name) {
                let text = format!(
                    "{name} with the origin \"*\" would let every page on the web call with what its visitor is \
                     logged in to; name the origins"
                );
                self.problems.add(*at, text);
            }
            built.push(name);
        }
        built
    }

    fn limits(&mut self, given: Option<&Limits>) -> downstream::Limits {
        let mut limits = downstream::Limits::default();
        let Some(given) = given else { return limits };
        self.size(&mut limits.max_message, given.max_message.as_ref(), 1, LARGEST_MESSAGE);
        let mut metadata = limits.max_metadata.into();
        self.size(&mut metadata, given.max_metadata.as_ref(), 1 << 10, 1 << 20);
        limits.max_metadata = metadata as u32;
        limits.sockets_per_address = given.sockets_per_address.unwrap_or(limits.sockets_per_address);
        limits.parked_sessions = given.parked_sessions.unwrap_or(limits.parked_sessions);
        limits.parked_per_address = given.parked_per_address.unwrap_or(limits.parked_per_address);
        self.size(&mut limits.parked_bytes, given.parked_bytes.as_ref(), 0, u64::MAX);
        limits.http2_streams = given.http2_streams.unwrap_or(limits.http2_streams);
        self.time(&mut limits.handshake_timeout, given.handshake_timeout.as_ref());
        self.time(&mut limits.header_timeout, given.header_timeout.as_ref());
        limits
    }

    fn session(&mut self, given: Option<&Session>) -> SessionSettings {
        let mut session = SessionSettings::default();
        let Some(given) = given else { return session };
        let mut credit = session.credit.into();
        // Clients work with this much until Welcome tells them the real credit.
        self.size(&mut credit, given.credit.as_ref(), INITIAL_CREDIT.into(), LARGEST_CREDIT);
        session.credit = credit as u32;
        session.max_streams = given.streams.unwrap_or(session.max_streams);
        self.time(&mut session.ping, given.ping.as_ref());
        self.time(&mut session.hello_timeout, given.hello_timeout.as_ref());
        if let Some(Duration(grace)) = given.resume {
            session.resume = grace;
        }
        let mut buffer = session.resume_buffer as u64;
        self.size(&mut buffer, given.resume_buffer.as_ref(), LEAST_REPLAY as u64, LARGEST_REPLAY);
        session.resume_buffer = buffer as usize;
        session.fallback = given.fallback.unwrap_or(session.fallback);
        self.time(&mut session.heartbeat, given.heartbeat.as_ref());
        session
    }

    fn upstreams(&mut self, upstreams: &At<Named<Upstream>>) -> Option<Vec<Arc<upstream::Settings>>> {
        let Named(entries) = &upstreams.value;
        let built: Vec<_> =
            entries.iter().map(|(name, given)| self.upstream(&name.value, given.as_ref()?)).collect();
        built.into_iter().collect()
    }

    fn upstream(&mut self, name: &str, given: &Upstream) -> Option<Arc<upstream::Settings>> {
        let mut endpoints = Vec::new();
        let mut seen = HashSet::new();
        for text in &given.endpoints.value.0 {
            match text.value.parse::<Endpoint>() {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => self.problems.add(text.at, error.to_string()),
            }
            if !seen.insert(&text.value) {
                self.problems.add(text.at, format!("{} is there twice", text.value));
            }
        }
        let any_tls = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tcp { tls: true, .. }));
        if let Some(tls) = &given.tls
            && !any_tls
            && endpoints.len() == given.endpoints.value.0.len()
        {
            self.problems.add(tls.at, "`tls` is for https:// endpoints, and there is none");
        }
        let tls = match (&given.tls, any_tls) {
            (None, false) => Some(ClientTls::trusting_nobody()),
            (tls, _) => self.client_tls(tls.as_ref(), given.endpoints.at),
        };
        let mut settings = upstream::Settings::new(name, endpoints, tls?);
        self.time(&mut settings.connect_timeout, given.connect_timeout.as_ref());
        settings.max_connections = given.max_connections.map_or(settings.max_connections, |n| n as usize);
        let mut window = settings.stream_window.into();
        self.size(&mut window, given.window.as_ref(), 1 << 10, LARGEST_WINDOW);
        settings.stream_window = window as u32;
        let mut headers = settings.max_header_list.into();
        self.size(&mut headers, given.max_headers.as_ref(), 1 << 10, 16 << 20);
        settings.max_header_list = headers as u32;
        if let Some(At { at, value: Keepalive(interval) }) = given.keepalive {
            settings.keepalive = interval.map(|Duration(interval)| interval);
            if settings.keepalive.is_some_and(|interval| interval.is_zero()) {
                self.problems.add(at, "0 is no interval; write \"off\" for none");
            }
        }
        self.time(&mut settings.keepalive_timeout, given.keepalive_timeout.as_ref());
        Some(Arc::new(settings))
    }

    /// The schemas by their upstream, files read.
    fn schemas(&mut self, upstreams: &At<Named<Upstream>>) -> Option<HashMap<String, schema::Settings>> {
        let Named(entries) = &upstreams.value;
        let mut schemas = HashMap::new();
        let mut complete = true;
        for (name, upstream) in entries {
            let source = upstream.as_ref().and_then(|upstream| upstream.schema.as_ref());
            match source.map(|source| &source.value) {
                Some(SchemaSource::Off) => {}
                None | Some(SchemaSource::Reflection) => {
                    let source = Source::Reflection { fallback: None };
                    schemas.insert(name.value.clone(), schema::Settings::new(source));
                }
                Some(SchemaSource::Files(files)) => {
                    let at = source.map(|source| source.at).unwrap_or_default();
                    match self.schema(files, at) {
                        Some(settings) => drop(schemas.insert(name.value.clone(), settings)),
                        None => complete = false,
                    }
                }
            }
        }
        complete.then_some(schemas)
    }

    fn schema(&mut self, given: &SchemaFiles, at: Position) -> Option<schema::Settings> {
        let SchemaFiles { reflection, descriptor_set, protos, includes } = given;
        if let (Some(includes), None) = (includes, protos) {
            self.problems.add(includes.at, "`includes` is for `protos`, and there are none");
        }
        match (reflection, descriptor_set, protos) {
            (Some(reflection), None, None) => self.reflection(&reflection.value),
            (None, Some(file), None) => {
                let read = Descriptors::read_set(&self.path(file));
                let read = read.map_err(|error| self.problems.add(file.at, error.to_string())).ok()?;
                Some(schema::Settings::new(Source::Files(Arc::new(read))))
            }
            (None, None, Some(protos)) => {
                let files: Vec<_> = protos.value.0.iter().map(|file| self.path(file)).collect();
                let includes = includes.as_ref().map(|includes| &includes.value[..]).unwrap_or_default();
                let includes: Vec<_> = includes.iter().map(|include| self.path(include)).collect();
                if files.is_empty() {
                    return None;
                }
                let compiled = Descriptors::compile(&files, &includes);
                let compiled =
                    compiled.map_err(|error| self.problems.add(protos.at, error.to_string())).ok()?;
                Some(schema::Settings::new(Source::Files(Arc::new(compiled))))
            }
            (None, None, None) => {
                self.problems.add(at, "the schema needs one of reflection, descriptor_set, protos");
                None
            }
            _ => {
                let text = "the schema comes from one of reflection, descriptor_set, protos, not from several; a file \
                            beside reflection is its `fallback`";
                self.problems.add(at, text);
                None
            }
        }
    }

    fn reflection(&mut self, given: &SchemaReflection) -> Option<schema::Settings> {
        let mut settings = schema::Settings::new(Source::Reflection { fallback: None });
        self.time(&mut settings.refresh, given.refresh.as_ref());
        self.time(&mut settings.timeout, given.timeout.as_ref());
        if let Some(file) = &given.fallback {
            let path = self.path(file);
            let is_proto = path.extension().is_some_and(|extension| extension == "proto");
            let read =
                if is_proto { Descriptors::compile(&[path], &[]) } else { Descriptors::read_set(&path) };
            let read = read.map_err(|error| self.problems.add(file.at, error.to_string())).ok()?;
            settings.source = Source::Reflection { fallback: Some(Arc::new(read)) };
        }
        Some(settings)
    }

    fn client_tls(&mut self, given: Option<&At<UpstreamTls>>, endpoints: Position) -> Option<ClientTls> {
        let at = given.map_or(endpoints, |tls| tls.at);
        let tls = given.map(|tls| &tls.value);
        let ca = tls.and_then(|tls| tls.ca.as_ref());
        let certificate = tls.and_then(|tls| tls.certificate.as_ref());
        let key = tls.and_then(|tls| tls.key.as_ref());
        match (certificate, key) {
            (Some(certificate), None) => self.problems.add(certificate.at, "`certificate` needs its `key`"),
            (None, Some(key)) => self.problems.add(key.at, "`key` needs its `certificate`"),
            _ => {}
        }
        let read = [ca, certificate, key].map(|path| path.map(|path| self.read(path)));
        let [ca, certificate, key] = read.map(Option::transpose);
        let (ca, certificate, key) = (ca.ok()?, certificate.ok()?, key.ok()?);
        let identity = certificate.as_deref().zip(key.as_deref());
        let server_name = tls.and_then(|tls| tls.server_name.as_ref()).map(|name| name.value.clone());
        ClientTls::from_pem(ClientPem { roots: ca.as_deref(), identity }, server_name)
            .map_err(|error| self.problems.add(at, error.to_string()))
            .ok()
    }

    fn routes(
        &mut self,
        routes: Option<&[Route]>,
        upstreams: &At<Named<Upstream>>,
        max_message: u64,
    ) -> Option<Vec<RouteSettings>> {
        let Named(entries) = &upstreams.value;
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.value.as_str()).collect();
        let Some(routes) = routes else {
            let [only] = &names[..] else {
                if names.len() > 1 {
                    let text = format!(
                        "`routes` is missing: with several upstreams ({}), say which serves what",
                        names.join(", ")
                    );
                    self.problems.add(upstreams.at, text);
                }
                return None;
            };
            let upstream = (*only).to_owned();
            return Some(vec![RouteSettings {
                pattern: ServicePattern::Any,
                upstream,
                timeout: None,
                max_message,
                json: JsonOptions::default(),
                log_messages: None,
            }]);
        };
        let mut seen: HashMap<ServicePattern, Position> = HashMap::new();
        let built: Vec<_> = routes
            .iter()
            .map(|route| {
                let upstream = &route.upstream;
                if !names.is_empty() && !names.contains(&upstream.value.as_str()) {
                    let meant = did_you_mean(&upstream.value, names.iter().copied());
                    let text = format!(
                        "there is no upstream {:?}{meant}; there are: {}",
                        upstream.value,
                        names.join(", ")
                    );
                    self.problems.add(upstream.at, text);
                }
                let mut timeout = Time::ZERO;
                self.time(&mut timeout, route.timeout.as_ref());
                let mut max = max_message;
                self.size(&mut max, route.max_message.as_ref(), 1, LARGEST_MESSAGE);
                let pattern = pattern::parse(&route.service.value)
                    .map_err(|error| self.problems.add(route.service.at, error))
                    .ok()?;
                if let Some(first) = seen.insert(pattern.clone(), route.service.at) {
                    let text = format!("{} has a route already, in line {}", route.service.value, first.line);
                    self.problems.add(route.service.at, text);
                }
                Some(RouteSettings {
                    pattern,
                    upstream: upstream.value.clone(),
                    timeout: route.timeout.is_some().then_some(timeout),
                    max_message: max,
                    json: route.json.as_ref().map(json).unwrap_or_default(),
                    log_messages: route.log_messages.as_ref().map(|given| self.log_messages(given)),
                })
            })
            .collect();
        built.into_iter().collect()
    }

    fn log_messages(&mut self, given: &LogMessages) -> MessageLog {
        let mut log = MessageLog::new(given.sample.value.0);
        let mut max = log.max_bytes as u64;
        self.size(&mut max, given.max_bytes.as_ref(), 1, 1 << 20);
        log.max_bytes = max as usize;
        for word in given.redact.iter().flatten() {
            if !log.redact(&word.value) {
                self.problems.add(word.at, "a word to redact needs letters or digits");
            }
        }
        log
    }

    fn workers(&mut self, given: Option<&At<u32>>) -> usize {
        const MOST: u32 = 1024;
        match given {
            None => thread::available_parallelism().map_or(1, Into::into),
            Some(workers) => {
                if workers.value > MOST {
                    let text = format!("{} worker threads are too many; at most {MOST}", workers.value);
                    self.problems.add(workers.at, text);
                }
                workers.value as usize
            }
        }
    }

    fn size(&mut self, setting: &mut u64, given: Option<&At<Size>>, least: u64, most: u64) {
        let Some(At { at, value: Size(value) }) = given else { return };
        if (least..=most).contains(value) {
            *setting = *value;
        } else {
            let text = format!("out of range: allowed are {} to {}", bytes(least), bytes(most));
            self.problems.add(*at, text);
        }
    }

    fn time(&mut self, setting: &mut Time, given: Option<&At<Duration>>) {
        let Some(At { at, value: Duration(value) }) = given else { return };
        if value.is_zero() {
            self.problems.add(*at, "0 is not allowed here; give a time of at least 1ms");
        }
        *setting = *value;
    }

    fn path(&self, path: &At<PathBuf>) -> PathBuf {
        self.base.join(&path.value)
    }

    fn read(&mut self, path: &At<PathBuf>) -> Result<Vec<u8>, ()> {
        let full = self.path(path);
        std::fs::read(&full)
            .map_err(|error| self.problems.add(path.at, format!("cannot read {}: {error}", full.display())))
    }
}

/// How a route speaks JSON.
fn json(given: &Json) -> JsonOptions {
    JsonOptions {
        ignore_unknown: given.unknown_fields.is_some_and(|UnknownFields(ignore)| ignore),
        defaults: given.defaults.is_some_and(|Defaults(write)| write),
        field_names: given.field_names.unwrap_or_default(),
    }
}

/// Whether an error is about the private key's file.
fn concerns(error: &TlsError, key: &Path) -> bool {
    match error {
        TlsError::Read { path, .. } | TlsError::Pem { path, .. } | TlsError::NoKey { path } => path == key,
        TlsError::Key { .. } | TlsError::Mismatch { .. } => true,
        _ => false,
    }
}

/// A number of bytes in its largest whole unit.
fn bytes(number: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| number >= 1 << shift && number.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{number}B"), |(unit, shift)| format!("{}{unit}", number >> shift))
}
