//! Who a client is by the certificate that it has shown, and how services learn of it.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{self, Decode as _},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::upstream::sha256;

/// Envoy's header for clients' certificates; services that stood behind Envoy read it.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The most names of a certificate that services are told. Each is an entry of metadata, with each call.
const MOST_NAMES: usize = 32;

/// A certificate that a client has shown and the handshake has verified. Two are equal if they are the same one.
pub struct ClientCertificate {
    fingerprint: [u8; 32],
    subject: HeaderValue,
    names: Vec<HeaderValue>,
    hash: HeaderValue,
    forwarded: HeaderValue,
}

impl ClientCertificate {
    /// From the certificate's DER. One that cannot be read is known by its fingerprint alone.
    pub fn new(certificate: &CertificateDer<'_>) -> Arc<Self> {
        let fingerprint = sha256([&**certificate]);
        let (subject, names) = read(certificate).unwrap_or_else(|error| {
            tracing::debug!(%error, "a client's certificate cannot be read, and is known by its fingerprint only");
            (String::new(), Vec::new())
        });
        let hash = fingerprint.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let forwarded = forwarded(&hash, &subject, &names);
        Arc::new(Self {
            fingerprint,
            subject: value(&subject),
            names: names.iter().map(|(kind, name)| value(&format!("{kind}:{name}"))).collect(),
            hash: value(&hash),
            forwarded: value(&forwarded),
        })
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for ClientCertificate {}

/// Its fingerprint is enough.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Under which names services are told who a client is. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// For the subject as RFC 4514 writes it, in ASCII: `CN=ada,O=Example`.
    pub subject: Option<HeaderName>,
    /// For the alternative names, an entry each: `DNS:…`, `URI:…`, `EMAIL:…`, `IP:…`. At most 32.
    pub san: Option<HeaderName>,
    /// For SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: Option<HeaderName>,
    /// Whether to tell it as Envoy does, in `x-forwarded-client-cert`.
    pub forwarded: bool,
    /// Whether clients may say `x-forwarded-client-cert` themselves, because a proxy before this one does.
    pub trusts_forwarded: bool,
}

impl ClientIdentity {
    /// Takes away what the client says under these names, and adds what its certificate says.
    pub(crate) fn write_to(&self, metadata: &mut HeaderMap, certificate: Option<&ClientCertificate>) {
        for name in [&self.subject, &self.san, &self.fingerprint].into_iter().flatten() {
            metadata.remove(name);
        }
        if !self.trusts_forwarded {
            metadata.remove(FORWARDED_CLIENT_CERT);
        }
        let Some(certificate) = certificate else { return };
        if let Some(name) = &self.subject {
            metadata.insert(name, certificate.subject.clone());
        }
        if let Some(name) = &self.san {
            for value in &certificate.names {
                metadata.append(name, value.clone());
            }
        }
        if let Some(name) = &self.fingerprint {
            metadata.insert(name, certificate.hash.clone());
        }
        if self.forwarded {
            metadata.insert(FORWARDED_CLIENT_CERT, certificate.forwarded.clone());
        }
    }
}

/// Alternative names by their kinds.
type Names = Vec<(&'static str, String)>;

/// The subject, and the alternative names.
fn read(certificate: &CertificateDer<'_>) -> Result<(String, Names), der::Error> {
    let certificate = Certificate::from_der(certificate)?;
    let certificate = certificate.tbs_certificate();
    let names = certificate.get_extension::<SubjectAltName>()?;
    let names = names.map_or_else(Vec::new, |(_, SubjectAltName(names))| names);
    let names = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(("DNS", name.to_string())),
        GeneralName::UniformResourceIdentifier(uri) => Some(("URI", uri.to_string())),
        GeneralName::Rfc822Name(name) => Some(("EMAIL", name.to_string())),
        GeneralName::IpAddress(address) => Some(("IP", ip(address.as_bytes())?.to_string())),
        _ => None,
    });
    // What is no visible ASCII cannot be told, and a part of a name would be another name.
    let names = names.filter(|(_, name)| name.bytes().all(|byte| byte.is_ascii_graphic()));
    Ok((ascii(&certificate.subject().to_string()), names.take(MOST_NAMES).collect()))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// RFC 4514, section 2.4 allows the bytes of any character to be written as a backslash and hexadecimal digits.
fn ascii(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
        if byte == b' ' || byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\{byte:02X}");
        }
        text
    })
}

/// As Envoy writes `x-forwarded-client-cert`: pairs, values in quotes where they have to be.
fn forwarded(hash: &str, subject: &str, names: &[(&'static str, String)]) -> String {
    // Quotes within the subject are escaped already, as RFC 4514 wants it.
    let mut text = format!("Hash={hash};Subject=\"{subject}\"");
    for (kind, name) in names {
        if !matches!(*kind, "URI" | "DNS") {
            continue;
        }
        if name.contains([',', ';', '=', '"', '\\']) {
            let name = name.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(text, ";{kind}=\"{name}\"");
        } else {
            let _ = write!(text, ";{kind}={name}");
        }
    }
    text
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("what is not visible ASCII has been escaped or left out")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: &str, names: &[SanType]) -> Arc<ClientCertificate> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names.to_vec();
        ClientCertificate::new(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    fn told(identity: &ClientIdentity, certificate: Option<&ClientCertificate>) -> Vec<(String, String)> {
        let mut metadata = HeaderMap::new();
        for name in ["x-subject", "x-san", "x-hash", "x-forwarded-client-cert", "x-other"] {
            metadata.append(name, HeaderValue::from_static("what the client says"));
        }
        identity.write_to(&mut metadata, certificate);
        let told = metadata.iter();
        let mut told: Vec<_> =
            told.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        told.retain(|(name, _)| name != "x-other");
        told.sort();
        told
    }

    fn all() -> ClientIdentity {
        let name = |name| Some(HeaderName::from_static(name));
        ClientIdentity {
            subject: name("x-subject"),
            san: name("x-san"),
            fingerprint: name("x-hash"),
            forwarded: true,
            trusts_forwarded: false,
        }
    }

    #[test]
    fn services_are_told_subject_names_and_fingerprint() {
        let names = [
            SanType::DnsName("ada.example".try_into().unwrap()),
            SanType::URI("spiffe://example/ns/a,b".try_into().unwrap()),
            SanType::Rfc822Name("ada@example.org".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
        ];
        let certificate = certificate("Ada \"L\u{f6}velace\"", &names);
        let hash = certificate.hash.to_str().unwrap().to_owned();
        assert_eq!(hash.len(), 64);
        let subject = r#"CN=Ada \"L\C3\B6velace\",O=Example\, Inc"#;
        let forwarded =
            format!(r#"Hash={hash};Subject="{subject}";DNS=ada.example;URI="spiffe://example/ns/a,b""#);
        let expected = [
            ("x-forwarded-client-cert", forwarded.as_str()),
            ("x-hash", &hash),
            ("x-san", "DNS:ada.example"),
            ("x-san", "EMAIL:ada@example.org"),
            ("x-san", "IP:10.0.0.1"),
            ("x-san", "URI:spiffe://example/ns/a,b"),
            ("x-subject", subject),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(told(&all(), Some(&certificate)), expected);
    }

    #[test]
    fn what_a_client_says_of_itself_under_these_names_is_never_passed_on() {
        assert_eq!(told(&all(), None), []);
        let names = |identity: &ClientIdentity| -> Vec<_> {
            told(identity, None).into_iter().map(|(name, _)| name).collect()
        };
        // Without a configuration, one of them is still known for what it is.
        assert_eq!(names(&ClientIdentity::default()), ["x-hash", "x-san", "x-subject"]);
        let trusting = ClientIdentity { trusts_forwarded: true, ..ClientIdentity::default() };
        assert!(names(&trusting).contains(&"x-forwarded-client-cert".to_owned()));
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_known_by_its_fingerprint() {
        let certificate = ClientCertificate::new(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(certificate.subject, "");
        assert_eq!(certificate.hash.to_str().unwrap()[..8], *"039058c6");
        assert_ne!(*certificate, *ClientCertificate::new(&CertificateDer::from(vec![1, 2])));
    }

    #[test]
    fn a_certificate_with_very_many_names_does_not_fill_each_call() {
        let names: Vec<_> =
            (0..100).map(|n| SanType::DnsName(format!("n{n}.example").try_into().unwrap())).collect();
        assert_eq!(certificate("a", &names).names.len(), MOST_NAMES);
    }
}
