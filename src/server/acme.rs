//! Certificates by ACME (RFC 8555), proven by TLS-ALPN-01 (RFC 8737) on the port itself.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::task::AbortOnDropHandle;

use super::Settings;
use crate::upstream::ClientTls;

/// The ALPN protocol by which a certificate authority looks for a proof. It speaks nothing else then.
pub(super) const CHALLENGE: &[u8] = b"acme-tls/1";

/// Whether this program can do ACME at all: the cargo feature `acme`.
pub const AVAILABLE: bool = cfg!(feature = "acme");

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq)]
pub struct AcmeSettings {
    /// The names that one certificate is for. No wildcards: TLS-ALPN-01 cannot prove them.
    pub domains: Vec<String>,
    /// `mailto:…`: whom the authority writes to.
    pub contacts: Vec<String>,
    /// A directory for the account's key and the certificate. It holds secrets.
    pub cache: PathBuf,
    /// The authority's directory.
    pub directory: String,
    /// TLS towards the authority.
    pub client: ClientTls,
}

/// A port's certificate by ACME.
#[derive(Clone, Debug)]
pub struct Acme {
    /// Where it comes from.
    pub settings: AcmeSettings,
    /// Where it is, once somebody asks for it.
    pub slot: Arc<AcmeSlot>,
}

/// The certificate that there is now, if any. Filled when the server runs: until then the port has none.
#[derive(Debug, Default)]
pub struct AcmeSlot(RwLock<Option<Arc<dyn ResolvesServerCert>>>);

impl AcmeSlot {
    fn fill(&self, certificate: Arc<dyn ResolvesServerCert>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    /// The certificate; or the proof, for an authority that asks for it.
    pub(super) fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        certificate?.resolve(hello)
    }
}

/// Whether an authority looks for a proof.
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut protocols| protocols.next() == Some(CHALLENGE) && protocols.next().is_none())
}

/// Those who keep certificates new, one for each different setting.
#[derive(Debug, Default)]
pub(super) struct Renewals(Vec<Renewal>);

#[derive(Debug)]
struct Renewal {
    settings: AcmeSettings,
    certificate: Arc<dyn ResolvesServerCert>,
    _task: AbortOnDropHandle<()>,
}

impl Renewals {
    /// Starts what is new, keeps what is as before, and stops the rest.
    pub(super) fn follow(&mut self, settings: &Settings) {
        let mut before = std::mem::take(&mut self.0);
        for Acme { settings, slot } in settings.listeners.iter().filter_map(|listener| listener.acme.as_ref())
        {
            let at = before.iter().position(|renewal| renewal.settings == *settings);
            self.0.extend(at.map(|at| before.swap_remove(at)));
            if !self.0.iter().any(|renewal| renewal.settings == *settings) {
                self.0.extend(start(settings));
            }
            if let Some(renewal) = self.0.iter().find(|renewal| renewal.settings == *settings) {
                slot.fill(renewal.certificate.clone());
            }
        }
    }
}

#[cfg(not(feature = "acme"))]
fn start(_: &AcmeSettings) -> Option<Renewal> {
    tracing::error!("this program was built without the feature `acme`");
    None
}

#[cfg(feature = "acme")]
fn start(settings: &AcmeSettings) -> Option<Renewal> {
    use futures_util::StreamExt as _;
    use rustls_acme::{AcmeConfig, caches::DirCache};
    use tracing::{error, info};

    let AcmeSettings { domains, contacts, cache, directory, client } = settings.clone();
    let mut client = (*client.config).clone();
    // It speaks HTTP/1.1.
    client.alpn_protocols.clear();
    let config = AcmeConfig::new_with_client_config(&domains, Arc::new(client))
        .contact(contacts)
        .cache(DirCache::new(cache))
        .directory(directory);
    let mut state = config.state();
    let certificate = state.resolver();
    let task = tokio::spawn(async move {
        // It never ends: it waits until the certificate has to be renewed, and after failures longer each time.
        while let Some(event) = state.next().await {
            match event {
                Ok(event) => info!(?domains, ?event, "ACME"),
                Err(error) => error!(?domains, %error, "ACME failed; it is tried again"),
            }
        }
    });
    Some(Renewal { settings: settings.clone(), certificate, _task: AbortOnDropHandle::new(task) })
}
