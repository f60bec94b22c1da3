//! TLS on the public ports: certificates by server name, client certificates, ALPN.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use x509_cert::der::Decode as _;

use super::acme::{Acme, AcmeSlot, CHALLENGE, is_challenge};
use crate::upstream::{provider, sha256};

/// What clients may speak, in the order of preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without one.
    #[default]
    Required,
    /// One that is shown must be valid.
    Optional,
}

/// Why TLS cannot be set up: which file, what is wrong with it, what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no PEM.
    #[error("{} is not valid PEM: {source}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// No certificate where one is needed.
    #[error("{} has no certificate; it must begin with -----BEGIN CERTIFICATE-----{}", path.display(), key_hint(*has_key))]
    NoCertificate {
        /// Which file.
        path: PathBuf,
        /// There is a private key instead.
        has_key: bool,
    },
    /// No private key where one is needed.
    #[error("{} has no private key; it must have -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate is broken, or no CA.
    #[error("the certificate in {} cannot be used: {why}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A private key is broken, or of a kind that is not supported.
    #[error("the private key in {} cannot be used: {source}; use RSA (2048 bits or more), ECDSA or Ed25519", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The key is of another certificate.
    #[error("the private key in {} does not belong to the first certificate in {}; the server's own certificate must come first, those of its CAs after it", key.display(), chain.display())]
    Mismatch {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls refuses the whole.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

fn key_hint(has_key: bool) -> &'static str {
    if has_key { "; this is a private key: are `chain` and `key` mixed up?" } else { "" }
}

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    facts: CertificateFacts,
}

/// What operators want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its file, or what it was called.
    pub name: String,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

impl Certificate {
    /// From two PEM files: the chain, the server's own certificate first, and its private key.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::parse((chain, &read(chain)?), (key, &read(key)?))
    }

    /// From PEM text.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::parse((Path::new("the given chain"), chain), (Path::new("the given key"), key))
    }

    fn parse((chain_path, chain): (&Path, &[u8]), (key_path, key): (&Path, &[u8])) -> Result<Self, TlsError> {
        let chain = certificates(chain_path, chain)?;
        let names = dns_names(chain_path, &chain[0])?;
        let facts = CertificateFacts {
            name: chain_path.display().to_string(),
            not_after: not_after(chain_path, &chain[0])?,
        };
        let path = || key_path.to_owned();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey { path: path() },
            source => TlsError::Pem { path: path(), source },
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { chain: chain_path.to_owned(), key: path() }
            }
            source => TlsError::Key { path: path(), source },
        })?;
        Ok(Self { key: Arc::new(key), names, facts })
    }

    /// When it expires.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The DNS names that it is valid for, in lower case; `*.` stands for one label.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// CA certificates that clients' certificates must come from.
pub fn load_client_ca(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, &read(path)?)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Certificate { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(roots)
}

/// A hash of what is demanded of clients' certificates.
pub fn client_trust(roots: &RootCertStore, auth: ClientAuth) -> [u8; 32] {
    let auth: &[u8] = if auth == ClientAuth::Required { b"required" } else { b"optional" };
    let roots = roots.roots.iter().flat_map(|root| [&*root.subject, &*root.subject_public_key_info]);
    sha256(roots.chain([auth]))
}

/// Lets clients of the one configuration resume their TLS sessions with the other: new certificates are no reason for
/// as many full handshakes as there are clients.
pub(super) fn keep_tickets(old: &ServerConfig, new: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = new.clone();
    config.ticketer = old.ticketer.clone();
    Arc::new(config)
}

/// The TLS side of a public port: certificates by SNI (the first is for clients that name no server, or another),
/// ALPN h2 and http/1.1, session tickets. At least one certificate.
pub fn server_config(
    certificates: &[Certificate],
    clients: Option<(RootCertStore, ClientAuth)>,
    min_version: MinVersion,
) -> Result<Arc<ServerConfig>, TlsError> {
    resolving(Arc::new(ByName::new(certificates)?), clients, min_version)
}

/// The same with a certificate by ACME for its domains; without others, for all clients.
pub fn acme_config(
    acme: &Acme,
    certificates: &[Certificate],
    clients: Option<(RootCertStore, ClientAuth)>,
    min_version: MinVersion,
) -> Result<Arc<ServerConfig>, TlsError> {
    let others = if certificates.is_empty() { None } else { Some(ByName::new(certificates)?) };
    let domains = acme.settings.domains.iter().map(|name| name.to_ascii_lowercase()).collect();
    let resolver = AcmeOrFile { domains, slot: acme.slot.clone(), others };
    let mut config = Arc::unwrap_or_clone(resolving(Arc::new(resolver), clients, min_version)?);
    config.alpn_protocols.push(CHALLENGE.to_vec());
    Ok(Arc::new(config))
}

fn resolving(
    certificates: Arc<dyn ResolvesServerCert>,
    clients: Option<(RootCertStore, ClientAuth)>,
    min_version: MinVersion,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[_] = match min_version {
        MinVersion::Tls12 => &[&TLS12, &TLS13],
        MinVersion::Tls13 => &[&TLS13],
    };
    let setup = |error: &dyn std::error::Error| TlsError::Setup(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| setup(&error))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((roots, auth)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = match auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| setup(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.ticketer = ticketer().map_err(|error| setup(&error))?;
    Ok(Arc::new(config))
}

#[cfg(feature = "aws-lc")]
use rustls::crypto::aws_lc_rs::Ticketer;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use rustls::crypto::ring::Ticketer;

/// Tickets spare the server a cache of sessions; the keys change every six hours.
fn ticketer() -> Result<Arc<dyn rustls::server::ProducesTickets>, rustls::Error> {
    Ticketer::new()
}

/// Chooses a certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Result<Self, TlsError> {
        let first = certificates.first().ok_or_else(|| TlsError::Setup("there is no certificate".into()))?;
        let mut by_name =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), default: first.key.clone() };
        for certificate in certificates {
            for name in &certificate.names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                // The first certificate for a name has it.
                table.entry(name.to_owned()).or_insert_with(|| certificate.key.clone());
            }
        }
        Ok(by_name)
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let parent = name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(&name).or_else(|| self.wildcard.get(parent?))
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()).clone())
    }
}

/// The certificate by ACME, and those of files.
#[derive(Debug)]
struct AcmeOrFile {
    domains: HashSet<String>,
    slot: Arc<AcmeSlot>,
    others: Option<ByName>,
}

impl ResolvesServerCert for AcmeOrFile {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_challenge(&hello) {
            return self.slot.resolve(hello);
        }
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        match &self.others {
            Some(others) if name.as_ref().is_none_or(|name| !self.domains.contains(name)) => {
                Some(others.find(name.as_deref()).clone())
            }
            _ => self.slot.resolve(hello),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if found.is_empty() {
        let has_key = PrivateKeyDer::from_pem_slice(text).is_ok();
        return Err(TlsError::NoCertificate { path: path.to_owned(), has_key });
    }
    Ok(found)
}

fn not_after(path: &Path, certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let parsed = x509_cert::Certificate::from_der(certificate)
        .map_err(|error| TlsError::Certificate { path: path.to_owned(), why: error.to_string() })?;
    let seconds = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    Ok(seconds.cast_signed())
}

fn dns_names(path: &Path, certificate: &CertificateDer<'_>) -> Result<Vec<String>, TlsError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| TlsError::Certificate { path: path.to_owned(), why: error.to_string() })?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Pair, generate_simple_self_signed};

    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let Pair { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn certificate(names: &[&str]) -> Certificate {
        let (chain, key) = pair(names);
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_is_chosen_by_exact_name_then_wildcard_then_the_first() {
        let all = [
            certificate(&["first.example"]),
            certificate(&["*.Example.com"]),
            certificate(&["api.example.com", "first.example"]),
        ];
        let by_name = ByName::new(&all).unwrap();
        let chosen = |name| {
            let key = by_name.find(name);
            all.iter().position(|certificate| Arc::ptr_eq(&certificate.key, key)).unwrap()
        };
        assert_eq!(chosen(None), 0);
        assert_eq!(chosen(Some("unknown.example")), 0);
        assert_eq!(chosen(Some("first.example")), 0);
        assert_eq!(chosen(Some("www.EXAMPLE.com")), 1);
        assert_eq!(chosen(Some("a.b.example.com")), 0);
        assert_eq!(chosen(Some("example.com")), 0);
        assert_eq!(chosen(Some("api.example.com.")), 2);
    }

    #[test]
    fn a_key_of_another_certificate_is_named_with_both_files() {
        let ((chain, _), (_, key)) = (pair(&["a.example"]), pair(&["b.example"]));
        let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("the given key") && error.to_string().contains("the given chain"));
    }

    #[test]
    fn files_that_are_mixed_up_empty_or_broken_are_told_apart() {
        let (chain, key) = pair(&["a.example"]);
        let error = |chain: &str, key: &str| {
            Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string()
        };
        assert!(error(&key, &chain).contains("are `chain` and `key` mixed up?"));
        assert!(error("", &key).contains("the given chain has no certificate"));
        assert!(error(&chain, "").contains("the given key has no private key"));
        let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert!(error(broken, &key).contains("the certificate in the given chain cannot be used"));
        let missing = Certificate::load(Path::new("/nowhere/edge.pem"), Path::new("/nowhere/edge.key"));
        assert!(missing.unwrap_err().to_string().starts_with("cannot read /nowhere/edge.pem: "));
    }

    #[test]
    fn a_port_speaks_h2_and_http1_and_gives_tickets() {
        let config = server_config(&[certificate(&["a.example"])], None, MinVersion::Tls13).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert!(config.ticketer.enabled());
        assert!(server_config(&[], None, MinVersion::Tls12).is_err());
    }
}
