//! From what the file says to settings for every floor: defaults, and the checks that need more than one value.

mod calls;
mod endpoints;
mod identity;
mod limits;
mod listeners;
mod metadata_rules;
mod own_services;
mod peers;
mod routes;
mod schemas;
mod tracing;
mod trust;
mod upstreams;

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration as Time,
};

use super::{
    Config, Duration, LogSettings, Size,
    choice::Share,
    file::{File, Listener},
    problem::Problems,
    read::At,
};
use crate::{
    downstream,
    server::{self, reload::Files},
    telemetry::log::check_filter,
};
use routes::Around;

/// Open connections of the process.
const MAX_CONNECTIONS: u32 = 50_000;

/// gRPC's length prefix has 32 bits.
const LARGEST_MESSAGE: u64 = u32::MAX as u64;

/// Settings from a file that was read without problems. `base` is where relative paths start.
/// `files` gets every path that is read.
pub(super) fn build(file: File, base: &Path, problems: &mut Problems, files: &mut Files) -> Option<Config> {
    let has_identity = file.identity.is_some();
    let mut b = Builder { base, problems, files: RefCell::new(files), has_identity, known: None };
    let listeners = b.listeners(&file.listeners.0);
    let origins = b.origins(file.origins.as_deref().unwrap_or_default(), &file.listeners.0);
    let upgrade_headers =
        b.upgrade_headers(file.upgrade_headers.as_deref().unwrap_or_default(), file.origins.as_deref());
    let client_identity =
        b.client_identity(file.client_identity.as_ref(), &upgrade_headers, &file.listeners.0);
    let hosts = b.own_hosts(file.hosts.as_deref());
    let trusted_proxies = b.trusted_proxies(file.trusted_proxies.as_deref(), &file.listeners.0);
    let overload = b.overload(file.overload.as_ref());
    let limits = downstream::Limits { overload, ..b.limits(file.limits.as_ref()) };
    let session = b.session(file.session.as_ref());
    let peers = b.peers(&file, longest_resume(&session, &file.listeners.0));
    let upstreams = b.upstreams(&file.upstreams, upgrade_headers.contains(&http::header::COOKIE));
    let schemas = b.schemas(&file.upstreams);
    b.known = b.identity(file.identity.as_ref(), file.origins.as_deref(), &file.upstreams.value);
    let around = Around {
        upstreams: &file.upstreams,
        origins: file.origins.as_deref(),
        upgrade_headers: &upgrade_headers,
        max_message: limits.max_message,
        resume: longest_resume(&session, &file.listeners.0),
    };
    let routes = b.routes(file.routes.as_ref().map(|routes| &routes.0[..]), &around);
    let prefix = b.prefix(file.prefix.as_ref());
    if let Some(level) = file.log.as_ref().and_then(|log| log.level.as_ref())
        && let Err(error) = check_filter(&level.value)
    {
        b.problems.add(level.at, error);
    }
    let reload = b.reload(file.reload.as_ref());
    let tracing = file.tracing.as_ref().map(|tracing| b.tracing(tracing));
    let served = file.routes.as_ref().map(|routes| &routes.0[..]).unwrap_or_default();
    let own_services = b.own_services(file.serve.as_ref(), served);
    let workers = b.workers(file.workers.as_ref());
    let drain = b.drain(file.drain.as_ref(), file.admin.is_some());
    let admin = file.admin.map(|admin| admin.address);
    if let Some(admin) = &admin
        && file.listeners.0.iter().any(|l| l.address.value == admin.value && admin.value.port() != 0)
    {
        b.problems.add(admin.at, format!("{} is a listener's address already; choose another", admin.value));
    }
    let identity = b.known.take().map(|known| known.authority);
    if identity.is_none() && has_identity {
        return None;
    }
    let (route_lines, routes): (Vec<_>, Vec<_>) = routes?.into_iter().unzip();
    let mut cookies: Vec<_> =
        routes.iter().flat_map(|route| &route.cookies).map(|(cookie, _)| cookie.clone()).collect();
    cookies.sort();
    cookies.dedup();
    let downstream = downstream::Settings {
        origins: origins?,
        hosts,
        trusted_proxies,
        instance: file.instance,
        peers: peers?,
        upgrade_headers,
        client_identity,
        limits,
        session,
        identity,
        cookies,
        prefix,
        routes,
        own_services,
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
            tracing: tracing.map_or(Some(None), |tracing| tracing.map(Some))?,
        },
        route_lines,
        log: LogSettings {
            format: log.as_ref().and_then(|log| log.format).unwrap_or_default(),
            sample_ok: log.as_ref().and_then(|log| log.sample_ok).map_or(1.0, |Share(share)| share),
            filter: log.and_then(|log| log.level).map_or_else(|| "info".into(), |level| level.value),
        },
        reload,
    })
}

/// The longest that any session waits without a carrier.
fn longest_resume(session: &downstream::SessionSettings, listeners: &[Listener]) -> Time {
    let graces =
        listeners.iter().map(|listener| listener.resume.map_or(session.resume, |Duration(grace)| grace));
    graces.max().unwrap_or_default()
}

struct Builder<'a> {
    base: &'a Path,
    problems: &'a mut Problems,
    files: RefCell<&'a mut Files>,
    /// The file has `identity`; what is `known` from it, unless it has problems.
    has_identity: bool,
    known: Option<identity::Known>,
}

impl Builder<'_> {
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

    /// Where a file is that is about to be read.
    fn path(&self, path: &At<PathBuf>) -> PathBuf {
        let path = self.base.join(&path.value);
        self.files.borrow_mut().note(&path);
        path
    }

    fn read(&mut self, path: &At<PathBuf>) -> Result<Vec<u8>, ()> {
        let full = self.path(path);
        std::fs::read(&full)
            .map_err(|error| self.problems.add(path.at, format!("cannot read {}: {error}", full.display())))
    }
}

/// A number of bytes in its largest whole unit.
pub(super) fn bytes(number: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| number >= 1 << shift && number.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{number}B"), |(unit, shift)| format!("{}{unit}", number >> shift))
}
