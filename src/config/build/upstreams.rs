//! The gRPC services.

use std::{collections::HashSet, sync::Arc};

use super::Builder;
use crate::{
    config::{
        Duration,
        choice::Keepalive,
        file::{Upstream, UpstreamTls},
        node::Position,
        read::{At, Named},
    },
    upstream::{self, ClientPem, ClientTls, Endpoint},
};

/// HTTP/2 windows and header lists.
const LARGEST_WINDOW: u64 = (1 << 31) - 1;

impl Builder<'_> {
    pub(super) fn upstreams(
        &mut self,
        upstreams: &At<Named<Upstream>>,
        cookies: bool,
    ) -> Option<Vec<Arc<upstream::Settings>>> {
        let Named(entries) = &upstreams.value;
        let built: Vec<_> = entries
            .iter()
            .map(|(name, given)| self.upstream(&name.value, given.as_ref()?, cookies))
            .collect();
        built.into_iter().collect()
    }

    pub(super) fn upstream(
        &mut self,
        name: &str,
        given: &Upstream,
        cookies: bool,
    ) -> Option<Arc<upstream::Settings>> {
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
        let any_tls = endpoints.iter().any(Endpoint::is_tls);
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
        self.endpoints(&mut settings, given, cookies);
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
        self.calls(&mut settings, given);
        Some(Arc::new(settings))
    }

    pub(super) fn client_tls(
        &mut self,
        given: Option<&At<UpstreamTls>>,
        endpoints: Position,
    ) -> Option<ClientTls> {
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
}
