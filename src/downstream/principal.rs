//! Who is at the other end of a carrier, as far as the proxy can tell.

use std::fmt;

use http::{
    HeaderMap, HeaderName,
    header::{HeaderValue, ORIGIN},
};

use super::{ConnInfo, Settings, origin, upgrade_headers};
use crate::wire::metadata;

/// What a request says of its client. A session's settings pick what of it counts: [`Principal`].
///
/// Carriers bring it whole, because a session lives by the settings of its begin, which may not be those that hold
/// where and when its client comes back.
#[derive(Clone)]
pub(crate) struct Visitor {
    /// The origin, and all that settings can name.
    headers: HeaderMap,
    /// SHA-256 of the certificate that the client has shown in its TLS handshake.
    certificate: Option<[u8; 32]>,
}

/// What a session is bound to: a carrier may take a session over only if its principal equals the session's. It is
/// known before the first packet, and all of it is checked by somebody else: the guard (origin), the services
/// (credentials). Whom the proxy itself has verified by a token is known only with Hello, and may be said again with a
/// newer token: that is `identity::SessionIdentity`, which is compared besides.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The page's origin in its normal form; `None` for clients that are no browsers.
    origin: Option<Box<str>>,
    /// What goes with every call of the session: cookies, for instance, or what a proxy before this one has
    /// authenticated.
    upgrade_headers: HeaderMap,
    /// SHA-256 of the certificate that the client has shown in its TLS handshake.
    certificate: Option<[u8; 32]>,
}

/// How other instances are told of the certificate, in hexadecimal. On the peer port only.
const CERTIFICATE: HeaderName = HeaderName::from_static("bidiway-client-certificate");

impl Principal {
    /// Of a visitor. The settings say which of its headers count.
    pub(crate) fn of(settings: &Settings, visitor: &Visitor) -> Self {
        Self {
            origin: origin_of(&visitor.headers),
            upgrade_headers: upgrade_headers::pick(settings, &visitor.headers),
            certificate: visitor.certificate,
        }
    }

    /// The configured headers of the client's upgrade: metadata of its calls.
    pub(crate) fn upgrade_headers(&self) -> &HeaderMap {
        &self.upgrade_headers
    }
}

impl Visitor {
    /// Of a request that the guard has passed, on this connection.
    pub(crate) fn of(headers: &HeaderMap, conn: &ConnInfo) -> Self {
        Self { headers: nameable(headers), certificate: fingerprint(conn) }
    }

    /// As another instance tells it of a client that came there.
    pub(crate) fn relayed(headers: &HeaderMap) -> Self {
        Self { headers: nameable(headers), certificate: relayed_fingerprint(headers) }
    }

    /// As headers from which [`Visitor::relayed`] makes the same visitor in another instance.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        write_fingerprint(self.certificate, headers);
    }
}

/// The headers that can count for a session, whatever the settings say.
fn nameable(headers: &HeaderMap) -> HeaderMap {
    let counts = |name: &HeaderName| name == ORIGIN || metadata::may_be_passed(name);
    headers
        .iter()
        .filter(|(name, _)| counts(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// SHA-256 of the certificate that a connection's client has shown.
pub(crate) fn fingerprint(conn: &ConnInfo) -> Option<[u8; 32]> {
    conn.certificate.as_ref().map(|certificate| certificate.fingerprint())
}

/// The same, as another instance tells it.
pub(crate) fn relayed_fingerprint(headers: &HeaderMap) -> Option<[u8; 32]> {
    let certificate = headers.get(CERTIFICATE).map(|value| from_hex(value.as_bytes()));
    // What cannot be read is somebody, but nobody we know.
    certificate.map(|certificate| certificate.unwrap_or_default())
}

/// Tells it another instance.
pub(crate) fn write_fingerprint(certificate: Option<[u8; 32]>, headers: &mut HeaderMap) {
    if let Some(certificate) = certificate {
        let text: String = certificate.iter().map(|byte| format!("{byte:02x}")).collect();
        headers.insert(CERTIFICATE, HeaderValue::try_from(text).expect("hexadecimal digits are a value"));
    }
}

fn from_hex(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?;
    }
    Some(bytes)
}

/// A request's origin in its normal form.
pub(crate) fn origin_of(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(ORIGIN).map(HeaderValue::as_bytes).and_then(origin::normal_form)
}

/// Without the credentials.
impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("origin", &self.headers.get(ORIGIN)).finish_non_exhaustive()
    }
}

/// Without the credentials.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::downstream::ClientCertificate;

    fn naming(upgrade_headers: &[HeaderName]) -> Settings {
        Settings { upgrade_headers: upgrade_headers.to_vec(), ..Settings::default() }
    }

    fn principal(origin: &str, cookie: &str) -> Principal {
        let headers =
            [(ORIGIN, origin.parse().unwrap()), (COOKIE, cookie.parse().unwrap())].into_iter().collect();
        of(&[COOKIE], &headers, &plain())
    }

    fn of(names: &[HeaderName], headers: &HeaderMap, conn: &ConnInfo) -> Principal {
        Principal::of(&naming(names), &Visitor::of(headers, conn))
    }

    fn plain() -> ConnInfo {
        ConnInfo::new(([127, 0, 0, 1], 1).into(), true)
    }

    fn showing(certificate: &[u8]) -> ConnInfo {
        let certificate = ClientCertificate::new(&certificate.to_vec().into());
        ConnInfo { certificate: Some(certificate), ..plain() }
    }

    #[test]
    fn two_spellings_of_an_origin_are_one_principal_and_two_origins_are_two() {
        let ada = principal("https://app.example", "user=ada");
        assert_eq!(ada, principal("HTTPS://App.Example:443", "user=ada"));
        assert_ne!(ada, principal("https://evil.example", "user=ada"));
        assert_ne!(ada, principal("http://app.example", "user=ada"));
        assert_ne!(ada, of(&[COOKIE], &HeaderMap::new(), &plain()));
    }

    #[test]
    fn other_credentials_are_another_principal_where_they_are_passed_on() {
        assert_ne!(principal("https://a.b", "user=ada"), principal("https://a.b", "user=eve"));
        let unnamed = |cookie: &str| {
            let headers: HeaderMap = [(COOKIE, cookie.parse().unwrap())].into_iter().collect();
            of(&[], &headers, &plain())
        };
        assert_eq!(unnamed("user=ada"), unnamed("user=eve"), "not configured, so nobody relies on them");
    }

    #[test]
    fn a_principal_is_the_same_after_a_journey_through_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, "https://App.example:444".parse().unwrap());
        for value in ["a=1", "b=2"] {
            headers.append(COOKIE, value.parse().unwrap());
            headers.append("x-user", value.parse().unwrap());
        }
        let names = [COOKIE, HeaderName::from_static("x-user")];
        for conn in [plain(), showing(b"ada")] {
            let ada = Visitor::of(&headers, &conn);
            let mut written = HeaderMap::new();
            ada.write_to(&mut written);
            let relayed = Visitor::relayed(&written);
            // Whatever the rules are where its session lives.
            for names in [&names[..], &names[..1], &[]] {
                assert_eq!(Principal::of(&naming(names), &relayed), Principal::of(&naming(names), &ada));
            }
            assert_ne!(Principal::of(&naming(&names), &relayed), Principal::of(&naming(&[]), &ada));
        }
    }

    #[test]
    fn another_certificate_or_none_is_another_principal_and_only_a_handshake_can_tell() {
        let of = |conn: &ConnInfo, headers: &HeaderMap| of(&[], headers, conn);
        let (none, ada) = (HeaderMap::new(), of(&showing(b"ada"), &HeaderMap::new()));
        assert_eq!(ada, of(&showing(b"ada"), &none));
        assert_ne!(ada, of(&showing(b"eve"), &none));
        assert_ne!(ada, of(&plain(), &none));
        let mut written = HeaderMap::new();
        Visitor::of(&none, &showing(b"ada")).write_to(&mut written);
        assert_eq!(ada, Principal::of(&naming(&[]), &Visitor::relayed(&written)));
        assert_ne!(ada, of(&plain(), &written), "a client's own words");
        written.insert(CERTIFICATE, HeaderValue::from_static("zz"));
        assert_ne!(Principal::of(&naming(&[]), &Visitor::relayed(&written)), of(&plain(), &none));
    }

    #[test]
    fn credentials_are_not_shown() {
        assert!(!format!("{:?}", principal("https://a.b", "user=ada")).contains("ada"));
    }
}
