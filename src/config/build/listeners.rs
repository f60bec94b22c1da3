//! Public ports, and who may come to them.

use std::{collections::HashMap, net::SocketAddr, path::Path, sync::Arc};

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
};

use rustls_pki_types::ServerName;

use super::Builder;
use crate::{
    config::{
        Duration,
        file::{self, Listener, ListenerAcme, ListenerTls},
        node::Position,
        read::At,
    },
    downstream::{ClientIdentity, FORWARDED_CLIENT_CERT, InvalidOrigin, Origins},
    server::{
        ListenerSettings,
        acme::{self, Acme, AcmeSettings},
        tls::{self, Certificate, ClientAuth, TlsError},
    },
    upstream::{ClientPem, ClientTls},
    wire::metadata,
};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// What browsers add to requests by themselves, whatever page makes them.
const AMBIENT: [HeaderName; 2] = [COOKIE, AUTHORIZATION];

impl Builder<'_> {
    pub(super) fn listeners(&mut self, listeners: &[Listener]) -> Option<Vec<ListenerSettings>> {
        let mut seen: HashMap<SocketAddr, Position> = HashMap::new();
        let built: Vec<_> = listeners
            .iter()
            .map(|Listener { address, tls, proxy_protocol, resume }| {
                if address.value.port() != 0
                    && let Some(first) = seen.insert(address.value, address.at)
                {
                    let text = format!("{} is listened on already, in line {}", address.value, first.line);
                    self.problems.add(address.at, text);
                }
                let mut settings = ListenerSettings::new(address.value, None);
                settings.proxy_protocol = proxy_protocol.as_ref().is_some_and(|given| given.value);
                settings.resume = resume.map(|Duration(grace)| grace);
                if let Some(tls) = tls {
                    self.listener_tls(tls, &mut settings)?;
                }
                Some(settings)
            })
            .collect();
        built.into_iter().collect()
    }

    fn listener_tls(&mut self, tls: &At<ListenerTls>, settings: &mut ListenerSettings) -> Option<()> {
        let ListenerTls { certificates, acme, client_ca, client_auth, min_version } = &tls.value;
        if certificates.is_none() && acme.is_none() {
            self.problems.add(tls.at, "`tls` needs `certificates` (or `acme`): what is shown to clients");
            return None;
        }
        let given = certificates.as_ref().map_or(&[][..], |certificates| &certificates.0[..]);
        let loaded: Vec<_> = given
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
                let auth = client_auth.as_ref().map_or_else(ClientAuth::default, |auth| auth.value);
                settings.client_trust = Some(tls::client_trust(&roots, auth));
                Some((roots, auth))
            }
        };
        let loaded: Vec<_> = loaded.into_iter().collect::<Result<_, ()>>().ok()?;
        let min_version = min_version.unwrap_or_default();
        let config = match acme {
            None if loaded.is_empty() => return None,
            None => tls::server_config(&loaded, clients, min_version),
            Some(acme) => {
                if client_auth_is_required(client_ca.is_some(), client_auth.as_ref()) {
                    let text = "the authority of `acme` shows no certificate, and so cannot look for the proof; take \
                                `client_auth: optional`, or certificates from files";
                    self.problems.add(acme.at, text);
                }
                let acme = self.acme(acme)?;
                let config = tls::acme_config(&acme, &loaded, clients, min_version);
                settings.acme = Some(acme);
                config
            }
        };
        settings.tls = Some(config.map_err(|error| self.problems.add(tls.at, error.to_string())).ok()?);
        settings.certificates = loaded.iter().map(|certificate| certificate.facts().clone()).collect();
        Some(())
    }

    fn acme(&mut self, given: &At<ListenerAcme>) -> Option<Acme> {
        let At { at, value: ListenerAcme { domains, email, cache, directory, directory_ca } } = given;
        if !acme::AVAILABLE {
            self.problems.add(*at, "this program was built without ACME; build it with `--features acme`");
        }
        for domain in &domains.0 {
            if domain.value.starts_with("*.") {
                let text = "wildcards cannot be proven by TLS-ALPN-01; name each host, or take certificates from files";
                self.problems.add(domain.at, text);
            } else if !matches!(ServerName::try_from(domain.value.as_str()), Ok(ServerName::DnsName(_))) {
                self.problems.add(domain.at, format!("{:?} is no DNS name", domain.value));
            }
        }
        if let Some(email) = email
            && !email.value.contains('@')
        {
            self.problems.add(email.at, format!("{:?} is no e-mail address", email.value));
        }
        let directory = match directory {
            None => LETS_ENCRYPT.to_owned(),
            Some(url) => {
                if !url.value.starts_with("https://") {
                    self.problems.add(url.at, format!("{:?} is no https:// URL", url.value));
                }
                url.value.clone()
            }
        };
        let roots = directory_ca.as_ref().map(|ca| self.read(ca)).transpose().ok()?;
        let pem = ClientPem { roots: roots.as_deref(), identity: None };
        let at = directory_ca.as_ref().map_or(*at, |ca| ca.at);
        let client = ClientTls::from_pem(pem, None).map_err(|error| self.problems.add(at, error.to_string()));
        let settings = AcmeSettings {
            domains: domains.0.iter().map(|domain| domain.value.clone()).collect(),
            contacts: email.iter().map(|email| format!("mailto:{}", email.value)).collect(),
            // Not one of the files to look at: what changes in there is our own doing.
            cache: self.base.join(&cache.value),
            directory,
            client: client.ok()?,
        };
        Some(Acme { settings, slot: Arc::default() })
    }

    pub(super) fn origins(&mut self, entries: &[At<String>], listeners: &[Listener]) -> Option<Origins> {
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

    pub(super) fn client_identity(
        &mut self,
        given: Option<&At<file::ClientIdentity>>,
        upgrade_headers: &[HeaderName],
        listeners: &[Listener],
    ) -> ClientIdentity {
        let trusts_forwarded = upgrade_headers.contains(&FORWARDED_CLIENT_CERT);
        let none = ClientIdentity { trusts_forwarded, ..ClientIdentity::default() };
        let Some(At { at, value: given }) = given else { return none };
        let mut ca = listeners.iter().filter_map(|listener| listener.tls.as_ref()?.value.client_ca.as_ref());
        if ca.next().is_none() {
            let text = "`client_identity` tells of certificates that clients show, and no listener has a `client_ca`";
            self.problems.add(*at, text);
        }
        let forwarded = given.forwarded.unwrap_or_default();
        if forwarded && trusts_forwarded {
            let text = "x-forwarded-client-cert is among `upgrade_headers`, as a proxy before this one says it; it cannot \
                        be `forwarded` as well";
            self.problems.add(*at, text);
        }
        let mut taken = upgrade_headers.to_vec();
        let mut name = |given: &Option<At<String>>| self.identity_name(given.as_ref()?, &mut taken);
        let (subject, san, fingerprint) = (name(&given.subject), name(&given.san), name(&given.fingerprint));
        ClientIdentity { subject, san, fingerprint, forwarded, trusts_forwarded }
    }

    fn identity_name(&mut self, given: &At<String>, taken: &mut Vec<HeaderName>) -> Option<HeaderName> {
        const OWN: [&str; 2] = ["x-forwarded-for", "x-forwarded-proto"];
        let At { at, value } = given;
        let name = HeaderName::try_from(value.to_ascii_lowercase()).ok();
        let name = name.filter(|name| metadata::may_be_passed(name) && !name.as_str().ends_with("-bin"));
        let text = match name {
            None => format!("{value:?} is no name for metadata that is text"),
            Some(name) if OWN.contains(&name.as_str()) || name == FORWARDED_CLIENT_CERT => {
                format!("{name} says something else; choose another name")
            }
            Some(name) if taken.contains(&name) => format!("{name} is used already; choose another name"),
            Some(name) => {
                taken.push(name.clone());
                return Some(name);
            }
        };
        self.problems.add(*at, text);
        None
    }

    pub(super) fn upgrade_headers(
        &mut self,
        names: &[At<String>],
        origins: Option<&[At<String>]>,
    ) -> Vec<HeaderName> {
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
}

fn client_auth_is_required(asked: bool, auth: Option<&At<ClientAuth>>) -> bool {
    asked && auth.is_none_or(|auth| auth.value == ClientAuth::Required)
}

/// Whether an error is about the private key's file.
pub(super) fn concerns(error: &TlsError, key: &Path) -> bool {
    match error {
        TlsError::Read { path, .. } | TlsError::Pem { path, .. } | TlsError::NoKey { path } => path == key,
        TlsError::Key { .. } | TlsError::Mismatch { .. } => true,
        _ => false,
    }
}
