//! TLS towards a service.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, hash::HashAlgorithm},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// TLS towards a service.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Roots, client certificate and ALPN `h2`, ready made.
    pub config: Arc<ClientConfig>,
    /// The name to verify and to send as SNI, instead of the endpoint's host.
    pub server_name: Option<String>,
    /// Of what `config` was made from; `None`: it is like no other.
    made_from: Option<[u8; 32]>,
}

impl PartialEq for ClientTls {
    /// Whether both show and trust the same certificates.
    fn eq(&self, other: &Self) -> bool {
        let made_alike = self.made_from.is_some() && self.made_from == other.made_from;
        self.server_name == other.server_name && (made_alike || Arc::ptr_eq(&self.config, &other.config))
    }
}

/// PEM text that a client's TLS is made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientPem<'a> {
    /// The only CA certificates to trust; `None`: those of the operating system.
    pub roots: Option<&'a [u8]>,
    /// The certificate chain and the private key to show to the server.
    pub identity: Option<(&'a [u8], &'a [u8])>,
}

/// Why a client's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is no PEM, or is broken.
    #[error("the {what} cannot be read as PEM: {source}")]
    Pem {
        /// Which file: "CA certificates", "client certificate", "client key".
        what: &'static str,
        /// What is wrong.
        source: rustls_pki_types::pem::Error,
    },
    /// A file has no certificate in it.
    #[error("the {what} hold no certificate; expected \"-----BEGIN CERTIFICATE-----\"")]
    Empty {
        /// Which file.
        what: &'static str,
    },
    /// A certificate is not valid as a root, or does not fit the key.
    #[error("the {what} cannot be used: {source}")]
    Unusable {
        /// Which file.
        what: &'static str,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The operating system has no root certificates.
    #[error("the operating system has no root certificates ({0}); name a CA file instead")]
    NoSystemRoots(String),
}

/// The cryptography that rustls uses, chosen when building by the features `aws-lc` (first) and `ring`. Passed
/// explicitly everywhere: a process-wide default may have been set by another library.
pub fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "aws-lc", feature = "ring")))]
    compile_error!("one of the features `aws-lc` and `ring` is needed");
}

/// SHA-256, by the same cryptography as TLS.
pub fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let provider = provider();
    let suites = provider.cipher_suites.iter().filter_map(|suite| suite.tls13());
    let mut hashes = suites.map(|suite| suite.common.hash_provider);
    let sha256 = hashes.find(|hash| hash.algorithm() == HashAlgorithm::SHA256);
    let mut context = sha256.expect("TLS 1.3 demands a suite with SHA-256 (RFC 8446, section 9.1)").start();
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl ClientTls {
    /// TLS with this rustls configuration, which must offer ALPN `h2`.
    pub fn new(config: Arc<ClientConfig>, server_name: Option<String>) -> Self {
        Self { config, server_name, made_from: None }
    }

    /// TLS that trusts nobody: for upstreams without `https` endpoints, where none is ever spoken.
    pub fn trusting_nobody() -> Self {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config: Arc::new(config), server_name: None, made_from: Some([0; 32]) }
    }

    /// TLS 1.2 and 1.3 with ALPN `h2`, from PEM text. Blocks on files when it loads the system's roots.
    pub fn from_pem(pem: ClientPem<'_>, server_name: Option<String>) -> Result<Self, TlsError> {
        let roots = match pem.roots {
            Some(text) => given_roots(text)?,
            None => system_roots()?,
        };
        let made_from = fingerprint(&roots, pem.identity);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Unusable { what: "TLS versions", source })?
            .with_root_certificates(roots);
        let mut config = match pem.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain, "client certificates")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|source| TlsError::Pem { what: "client key", source })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| TlsError::Unusable { what: "client certificate and key", source })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), server_name, made_from: Some(made_from) })
    }
}

/// Of the roots' names and keys, and of the identity.
fn fingerprint(roots: &RootCertStore, identity: Option<(&[u8], &[u8])>) -> [u8; 32] {
    let mut parts: Vec<[u8; 32]> =
        roots.roots.iter().map(|root| sha256([&*root.subject, &*root.subject_public_key_info])).collect();
    parts.sort_unstable();
    let identity = identity.map(|(chain, key)| [sha256([chain]), sha256([key])]);
    sha256(parts.iter().chain(identity.iter().flatten()).map(<[u8; 32]>::as_slice))
}

fn certificates(text: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::Empty { what }),
        Ok(certificates) => Ok(certificates),
        Err(source) => Err(TlsError::Pem { what, source }),
    }
}

fn given_roots(text: &[u8]) -> Result<RootCertStore, TlsError> {
    let what = "CA certificates";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text, what)? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { what, source })?;
    }
    Ok(roots)
}

/// Certificates of the system that rustls cannot use are skipped: old roots are common and nobody's fault here.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemRoots(if why.is_empty() {
            "none found".into()
        } else {
            why.join("; ")
        }));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_pem_is_refused_with_the_file_that_is_meant() {
        let from = |roots: &[u8], identity| {
            ClientTls::from_pem(ClientPem { roots: Some(roots), identity }, None).unwrap_err().to_string()
        };
        assert!(from(b"", None).contains("CA certificates hold no certificate"));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(from(broken, None).contains("CA certificates cannot be read as PEM"));
        let not_der = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(from(not_der, None).contains("CA certificates cannot be used"));
    }

    #[test]
    fn a_client_key_that_does_not_fit_its_certificate_is_refused() {
        let one = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let ca = one.cert.pem();
        let roots = Some(ca.as_bytes());
        let with = |key: &str| {
            ClientTls::from_pem(ClientPem { roots, identity: Some((ca.as_bytes(), key.as_bytes())) }, None)
        };
        assert_eq!(with(&one.signing_key.serialize_pem()).unwrap().config.alpn_protocols, [b"h2"]);
        let error = with(&other.signing_key.serialize_pem()).unwrap_err().to_string();
        assert!(error.contains("client certificate and key cannot be used"), "{error}");
        let error = with("nothing").unwrap_err().to_string();
        assert!(error.contains("client key cannot be read"), "{error}");
    }
}
