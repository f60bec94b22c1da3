//! What the downstream side needs to know.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    CallLimits, ClientIdentity, Hosts, Origins, OverloadSettings, OwnServices, RouteSettings, TrustedProxies,
    carrier::PeerSettings, identity::Authority,
};
use crate::wire::metadata::ENTRY_OVERHEAD;

/// Settings of the downstream side, shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whose pages may call: one list for CORS and sockets.
    pub origins: Origins,
    /// The names that requests may be for. Any.
    pub hosts: Hosts,
    /// Proxies before this one that are believed when they say for whom they come. Nobody.
    pub trusted_proxies: TrustedProxies,
    /// What a client may use.
    pub limits: Limits,
    /// The session protocol.
    pub session: SessionSettings,
    /// The name of this instance among those that share an address; `None`: it is anew at each start. Resume tokens
    /// lead to it.
    pub instance: Option<String>,
    /// The link to those others; `None`: a client that comes back to another instance has lost its session.
    pub peers: Option<PeerSettings>,
    /// Headers that reach services as metadata although HTTP clients' own headers otherwise do not: those of the
    /// request that opened a WebSocket, for every call on it, and `cookie` of any request. None. With `cookie`,
    /// `origins` must not allow any origin: whatever page calls, its visitor's cookies go along.
    pub upgrade_headers: Vec<http::HeaderName>,
    /// What knows who callers are; the routes say what they ask of it. `None`: nobody is known.
    pub identity: Option<Arc<Authority>>,
    /// How services learn of the certificates that clients show.
    pub client_identity: ClientIdentity,
    /// The names of the cookies that routes turn into metadata. As with `cookie` in `upgrade_headers`, `origins` must
    /// then not allow any origin.
    pub cookies: Vec<String>,
    /// What the paths of all requests may begin with, besides nothing: `/api`. It is taken off, and the rest is served
    /// as if it had never been there.
    pub prefix: Option<String>,
    /// Where calls go.
    pub routes: Vec<RouteSettings>,
    /// Which of its own gRPC services the proxy offers.
    pub own_services: OwnServices,
    /// Whether `/bidiway/schema` serves the schemas of what routes serve.
    pub schema_endpoint: bool,
    /// Pages besides the proxy's own (`/bidiway/…`, which it must not contain): the demo's. Requests that are no
    /// gRPC in any dialect end here, after the origin check. Its fallback is replaced.
    pub pages: axum::Router,
}

/// What a client may use before and besides its calls.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest message in either direction unless a route says otherwise. 4 MiB, gRPC's own default.
    pub max_message: u64,
    /// The largest metadata of a call, and the largest HTTP header block. 16 KiB.
    pub max_metadata: u32,
    /// Open WebSockets per client address. 100: several people behind one address, each with several tabs.
    pub sockets_per_address: u32,
    /// Sessions without a carrier in the whole process; then the oldest goes. 50,000: as many as there may be
    /// connections, which can be lost all at once.
    pub parked_sessions: u32,
    /// Those of one client address; then its oldest goes. 100: as many as it may have sockets.
    pub parked_per_address: u32,
    /// What sessions without a carrier keep for their clients, together, in bytes. 256 MiB.
    pub parked_bytes: u64,
    /// How long a TLS handshake may take. 10 s.
    pub handshake_timeout: Duration,
    /// How long a client may take to send a request's headers. 10 s.
    pub header_timeout: Duration,
    /// How long an HTTP/2 connection is kept on which nothing goes on. 10 min.
    pub idle_timeout: Duration,
    /// Open HTTP/2 streams per connection. 250.
    pub http2_streams: u32,
    /// Open TCP connections per client address; a trusted proxy has no such limit. 1,000.
    pub connections_per_address: u32,
    /// WebSockets and HTTP carriers that one client address opens in a minute, and as many at once. 600.
    pub upgrades_per_minute: Option<u32>,
    /// What one client address may call. No limits.
    pub per_address: CallLimits,
    /// What one verified principal may call. No limits.
    pub per_principal: CallLimits,
    /// Calls of one connection or session that its client gives up in a second, for long; ten times as many at once.
    /// Beyond, the connection or session is closed. 100.
    pub cancels_per_second: Option<u32>,
    /// How long a client may take nothing of what is written to it, before its connection is closed. 2 min.
    pub write_timeout: Duration,
    /// When new work is refused.
    pub overload: OverloadSettings,
}

/// The session protocol's settings; see `session::Settings` for their meaning.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Credit per stream. 256 KiB.
    pub credit: u32,
    /// Open streams per session. 256.
    pub max_streams: u32,
    /// Ping interval. 20 s.
    pub ping: Duration,
    /// Time until Hello. 10 s.
    pub hello_timeout: Duration,
    /// How long a session without a carrier is kept for its client; zero: not at all. 30 s.
    pub resume: Duration,
    /// How many bytes a session keeps until its client acknowledges them. 1 MiB.
    pub resume_buffer: usize,
    /// Whether clients may come by HTTP where WebSockets do not get through. Yes.
    pub fallback: bool,
    /// The longest silence of an HTTP carrier's response, and the longest wait of a poll. 15 s.
    pub heartbeat: Duration,
}

impl Settings {
    /// Goes on with what `old` settings know of issuers: all of it if nothing has changed, and otherwise the keys that
    /// were fetched. So an issuer that cannot be reached after a reload is still believed.
    pub fn keep_identity(self: &mut Arc<Self>, old: &Self) {
        let (Some(new), Some(old)) = (&self.identity, &old.identity) else { return };
        if new.settings() != old.settings() {
            return new.inherit(old);
        }
        let this = Arc::make_mut(self);
        this.identity = Some(Arc::clone(old));
        for auth in this.routes.iter_mut().filter_map(|route| route.auth.as_mut()) {
            auth.authority = Arc::clone(old);
        }
    }

    /// These settings have taken the place of the `old` ones: whom only those believe, nobody asks for keys any more.
    /// Sessions keep the settings that they began with.
    pub fn retire_identity(&self, old: &Self) {
        let is_kept = |old: &Arc<Authority>| self.identity.as_ref().is_some_and(|new| Arc::ptr_eq(new, old));
        if let Some(old) = old.identity.as_ref().filter(|old| !is_kept(old)) {
            old.retire();
        }
    }
}

impl Settings {
    /// Routes that `old` settings had too, by what metrics call them, go on with what is used of their limits.
    pub fn keep_route_limits(self: &mut Arc<Self>, old: &Self) {
        let before: HashMap<_, _> =
            old.routes.iter().filter_map(|route| Some((route.label(), route.limits.as_ref()?))).collect();
        if before.is_empty() {
            return;
        }
        for route in &mut Arc::make_mut(self).routes {
            if let Some(limits) = &route.limits
                && let Some(before) = before.get(&route.label())
            {
                route.limits = Some(Arc::new(limits.in_place_of(before)));
            }
        }
    }
}

impl Limits {
    /// How many entries metadata can have within its limit.
    pub fn max_entries(&self) -> usize {
        self.max_metadata as usize / ENTRY_OVERHEAD
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 4 * 1024 * 1024,
            max_metadata: 16 * 1024,
            sockets_per_address: 100,
            parked_sessions: 50_000,
            parked_per_address: 100,
            parked_bytes: 256 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            http2_streams: 250,
            connections_per_address: 1000,
            upgrades_per_minute: Some(600),
            per_address: CallLimits::default(),
            per_principal: CallLimits::default(),
            cancels_per_second: Some(100),
            write_timeout: Duration::from_secs(120),
            overload: OverloadSettings::default(),
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            credit: 256 * 1024,
            max_streams: 256,
            ping: Duration::from_secs(20),
            hello_timeout: Duration::from_secs(10),
            resume: Duration::from_secs(30),
            resume_buffer: 1024 * 1024,
            fallback: true,
            heartbeat: Duration::from_secs(15),
        }
    }
}
