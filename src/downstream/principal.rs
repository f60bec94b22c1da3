//! Who is at the other end of a carrier, as far as the proxy can tell.

use std::fmt;

use http::{
    HeaderMap,
    header::{HeaderValue, ORIGIN},
};

use super::{Settings, origin, upgrade_headers};

/// What a session is bound to: a carrier may take a session over only if its principal equals the session's. It is
/// known before the first packet, and all of it is checked by somebody else: the guard (origin), the services
/// (credentials). An identity that the proxy itself has verified belongs in here as one more field.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The page's origin in its normal form; `None` for clients that are no browsers.
    origin: Option<Box<str>>,
    /// What goes with every call of the session: cookies, for instance, or what a proxy before this one has
    /// authenticated.
    upgrade_headers: HeaderMap,
}

impl Principal {
    /// Of a request that the guard has passed. The settings say which of its headers count.
    pub(crate) fn of(settings: &Settings, headers: &HeaderMap) -> Self {
        Self { origin: origin_of(headers), upgrade_headers: upgrade_headers::pick(settings, headers) }
    }

    /// As headers from which [`Principal::of`] makes the same principal in another instance.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.upgrade_headers {
            headers.append(name, value.clone());
        }
        if let Some(origin) = self.origin.as_ref().and_then(|origin| HeaderValue::from_str(origin).ok()) {
            headers.insert(ORIGIN, origin);
        }
    }

    /// The configured headers of the client's upgrade: metadata of its calls.
    pub(crate) fn upgrade_headers(&self) -> &HeaderMap {
        &self.upgrade_headers
    }

    /// The same, for a socket that is all there is of its session.
    pub(crate) fn into_upgrade_headers(self) -> HeaderMap {
        self.upgrade_headers
    }
}

/// A request's origin in its normal form.
pub(crate) fn origin_of(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(ORIGIN).map(HeaderValue::as_bytes).and_then(origin::normal_form)
}

/// Without the credentials.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, header::COOKIE};

    use super::*;

    fn naming(upgrade_headers: &[HeaderName]) -> Settings {
        Settings { upgrade_headers: upgrade_headers.to_vec(), ..Settings::default() }
    }

    fn principal(origin: &str, cookie: &str) -> Principal {
        let headers =
            [(ORIGIN, origin.parse().unwrap()), (COOKIE, cookie.parse().unwrap())].into_iter().collect();
        Principal::of(&naming(&[COOKIE]), &headers)
    }

    #[test]
    fn two_spellings_of_an_origin_are_one_principal_and_two_origins_are_two() {
        let ada = principal("https://app.example", "user=ada");
        assert_eq!(ada, principal("HTTPS://App.Example:443", "user=ada"));
        assert_ne!(ada, principal("https://evil.example", "user=ada"));
        assert_ne!(ada, principal("http://app.example", "user=ada"));
        assert_ne!(ada, Principal::of(&naming(&[COOKIE]), &HeaderMap::new()));
    }

    #[test]
    fn other_credentials_are_another_principal_where_they_are_passed_on() {
        assert_ne!(principal("https://a.b", "user=ada"), principal("https://a.b", "user=eve"));
        let of = |cookie: &str| {
            Principal::of(
                &naming(&[]),
                &[(COOKIE, cookie.parse().unwrap())].into_iter().collect::<HeaderMap>(),
            )
        };
        assert_eq!(of("user=ada"), of("user=eve"), "not configured, so nobody relies on them");
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
        let ada = Principal::of(&naming(&names), &headers);
        let mut written = HeaderMap::new();
        ada.write_to(&mut written);
        assert_eq!(Principal::of(&naming(&names), &written), ada);
        assert_ne!(Principal::of(&naming(&[]), &written), ada);
    }

    #[test]
    fn credentials_are_not_shown() {
        assert!(!format!("{:?}", principal("https://a.b", "user=ada")).contains("ada"));
    }
}
