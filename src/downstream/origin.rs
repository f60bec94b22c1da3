//! Whose pages may call.

use std::{borrow::Cow, collections::HashSet, net::Ipv6Addr};

use http::{HeaderMap, Uri, header::HOST};

/// The allow-list of origins. Same-origin requests always pass; others need an entry.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    any: bool,
    exact: HashSet<Origin>,
    /// `https://*.example.com`: the host is kept with its dot, `.example.com`.
    subdomains: Vec<Origin>,
}

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an origin: {why}; write scheme://host or scheme://host:port, or \"*\" for any")]
pub struct InvalidOrigin {
    /// What was there.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Why an origin may pass. Credentials (cookies) are only for origins that somebody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admittance {
    /// The page came from where it calls.
    SameOrigin,
    /// An entry names it, or its domain.
    Listed,
    /// The list is `*`.
    Any,
}

/// Scheme, host and port, in the form in which two spellings of one origin are equal (RFC 6454, section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Origin {
    scheme: String,
    host: String,
    /// `None` when the scheme's port is not known, and none was given.
    port: Option<u16>,
}

impl Origins {
    /// A list from the configuration: origins (`https://app.example.com`), `*` for any, or
    /// `https://*.example.com` for the subdomains of a domain. Reports every entry that is none of these.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<InvalidOrigin>> {
        let mut list = Self::default();
        let mut errors = Vec::new();
        for entry in entries {
            let entry = entry.as_ref();
            if let Err(why) = list.add(entry) {
                errors.push(InvalidOrigin { text: entry.to_owned(), why });
            }
        }
        if errors.is_empty() { Ok(list) } else { Err(errors) }
    }

    fn add(&mut self, entry: &str) -> Result<(), &'static str> {
        match entry.split_once("://*.") {
            _ if entry == "*" => self.any = true,
            Some((scheme, domain)) => {
                let mut origin = Origin::parse(&format!("{scheme}://{domain}"))?;
                if origin.host.starts_with('[') {
                    return Err("an address has no subdomains");
                }
                origin.host.insert(0, '.');
                self.subdomains.push(origin);
            }
            None if entry.contains('*') => {
                return Err(
                    "'*' stands alone, or for the subdomains of a domain as in https://*.example.com",
                );
            }
            None => {
                self.exact.insert(Origin::parse(entry)?);
            }
        }
        Ok(())
    }

    /// Whether a page of this `Origin` header's value may call. Requests without the header are not asked about:
    /// the guard decides on those. `tls` tells the scheme under which the client reached us; the host comes from
    /// `:authority` or `host`. Scheme, host and port are compared; `null` never passes.
    pub fn allows(&self, origin: &[u8], headers: &HeaderMap, uri: &Uri, tls: bool) -> bool {
        self.admittance(origin, headers, uri, tls).is_some()
    }

    /// Like [`Origins::allows`], with the reason.
    pub(crate) fn admittance(
        &self,
        origin: &[u8],
        headers: &HeaderMap,
        uri: &Uri,
        tls: bool,
    ) -> Option<Admittance> {
        // `null` is what sandboxed frames and files have: nobody's name, so it fails to parse.
        let origin = Origin::parse(std::str::from_utf8(origin).ok()?).ok()?;
        if self.exact.contains(&origin) || self.subdomains.iter().any(|domain| origin.is_within(domain)) {
            return Some(Admittance::Listed);
        }
        if Origin::of_target(headers, uri, tls).is_some_and(|target| target == origin) {
            return Some(Admittance::SameOrigin);
        }
        self.any.then_some(Admittance::Any)
    }
}

/// The one form of an origin's spellings: `https://app.example.com:443`. `None` for what is no origin.
pub(crate) fn normal_form(origin: &[u8]) -> Option<Box<str>> {
    let Origin { scheme, host, port } = Origin::parse(std::str::from_utf8(origin).ok()?).ok()?;
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}").into())
}

impl Origin {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err(match text {
                "null" => "null is the name of every page that has none, and never passes",
                _ => "it has no scheme",
            });
        };
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !is_scheme {
            return Err("its scheme has characters that a scheme cannot have");
        }
        if authority.contains(['/', '?', '#']) {
            return Err("an origin has no path, not even a closing slash");
        }
        if authority.contains('@') {
            return Err("an origin has no user name");
        }
        Self::from_authority(scheme, authority)
    }

    /// Where a request was sent, as the client names it. `None` when the request does not say, or says it twice.
    fn of_target(headers: &HeaderMap, uri: &Uri, tls: bool) -> Option<Self> {
        let scheme = if tls { "https" } else { "http" };
        Self::from_authority(scheme, authority(headers, uri)?).ok()
    }

    fn from_authority(scheme: &str, authority: &str) -> Result<Self, &'static str> {
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = match authority.rfind(':') {
            // A colon within brackets belongs to the address.
            Some(at) if !authority[at..].contains(']') => (&authority[..at], Some(&authority[at + 1..])),
            _ => (authority, None),
        };
        let default_port = match scheme.as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        let port = match port {
            None => default_port,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse::<u16>().map_err(|_| "its port is larger than 65535")?)
            }
            Some(_) => return Err("its port is not a number"),
        };
        Ok(Self { scheme, host: host_form(host)?.into_owned(), port })
    }

    /// Whether this is an origin of a subdomain: `domain.host` begins with a dot.
    fn is_within(&self, domain: &Self) -> bool {
        self.scheme == domain.scheme
            && self.port == domain.port
            && self.host.len() > domain.host.len()
            && self.host.ends_with(&domain.host)
    }
}

/// The host and port that a request is for: `:authority`, or `host`. `None` when it does not say, or says it twice.
pub(super) fn authority<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    if let Some(authority) = uri.authority() {
        return Some(authority.as_str());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

/// A host in the one form that is compared: lower case, IPv6 addresses in their shortest form.
pub(super) fn host_form(host: &str) -> Result<Cow<'_, str>, &'static str> {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.strip_suffix(']').ok_or("its IPv6 address has no closing bracket")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "its IPv6 address is not valid")?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains(':') {
        return Err("an IPv6 address is written in brackets");
    }
    if !host.is_ascii() {
        return Err("its host is not ASCII; write it as browsers send it, as in xn--bcher-kva.example");
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err("its host has characters that a host cannot have");
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Ok(Cow::Owned(host.to_ascii_lowercase()))
    } else {
        Ok(Cow::Borrowed(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Origins {
        Origins::parse(entries).unwrap()
    }

    /// What a client that reached us at `http://edge.example:8080` over HTTP/1.1 gets.
    fn verdict(origins: &Origins, origin: &str) -> Option<Admittance> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "edge.example:8080".parse().unwrap());
        origins.admittance(origin.as_bytes(), &headers, &Uri::from_static("/a.B/C"), false)
    }

    #[test]
    fn an_empty_list_lets_only_the_same_origin_pass() {
        let none = Origins::default();
        assert_eq!(verdict(&none, "http://edge.example:8080"), Some(Admittance::SameOrigin));
        assert_eq!(verdict(&none, "HTTP://EDGE.example:8080"), Some(Admittance::SameOrigin));
        for other in [
            "https://edge.example:8080",
            "http://edge.example",
            "http://edge.example:8081",
            "http://edge.example.evil:8080",
            "http://evil",
            "",
        ] {
            assert_eq!(verdict(&none, other), None, "{other}");
        }
    }

    #[test]
    fn the_same_origin_follows_the_authority_of_http2_and_the_scheme_of_the_connection() {
        let uri = Uri::from_static("https://edge.example/a.B/C");
        let none = Origins::default();
        assert!(none.allows(b"https://edge.example", &HeaderMap::new(), &uri, true));
        assert!(none.allows(b"https://edge.example:443", &HeaderMap::new(), &uri, true));
        assert!(!none.allows(b"http://edge.example", &HeaderMap::new(), &uri, true));
        assert!(
            !none.allows(b"https://edge.example", &HeaderMap::new(), &uri, false),
            "the connection has no TLS"
        );
    }

    #[test]
    fn a_request_with_two_hosts_has_no_same_origin() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, "a.example".parse().unwrap());
        headers.append(HOST, "b.example".parse().unwrap());
        let uri = Uri::from_static("/");
        assert!(!Origins::default().allows(b"http://a.example", &headers, &uri, false));
    }

    #[test]
    fn a_listed_origin_passes_in_any_spelling_and_with_its_default_port() {
        let origins =
            list(&["https://App.Example.com:443", "http://[2001:DB8:0::1]:80", "capacitor://localhost"]);
        for origin in [
            "https://app.example.com",
            "HTTPS://APP.EXAMPLE.COM:443",
            "http://[2001:db8::1]",
            "capacitor://localhost",
        ] {
            assert_eq!(verdict(&origins, origin), Some(Admittance::Listed), "{origin}");
        }
        for origin in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.",
            "https://app.example.com@evil.example",
            "https://evil.example/https://app.example.com",
        ] {
            assert_eq!(verdict(&origins, origin), None, "{origin}");
        }
    }

    #[test]
    fn a_wildcard_covers_subdomains_but_neither_the_domain_nor_its_lookalikes() {
        let origins = list(&["https://*.example.com"]);
        assert_eq!(verdict(&origins, "https://a.example.com"), Some(Admittance::Listed));
        assert_eq!(verdict(&origins, "https://a.b.EXAMPLE.com"), Some(Admittance::Listed));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.net",
            "http://a.example.com",
            "https://a.example.com:8443",
        ] {
            assert_eq!(verdict(&origins, other), None, "{other}");
        }
    }

    #[test]
    fn null_never_passes_not_even_where_any_origin_may() {
        let origins = list(&["*"]);
        assert_eq!(verdict(&origins, "https://whoever.example"), Some(Admittance::Any));
        assert_eq!(verdict(&origins, "null"), None);
        assert!(Origins::parse(&["null"]).is_err());
    }

    #[test]
    fn naming_an_origin_beside_any_tells_it_apart() {
        let origins = list(&["*", "https://app.example.com"]);
        assert_eq!(verdict(&origins, "https://app.example.com"), Some(Admittance::Listed));
        assert_eq!(verdict(&origins, "https://other.example.com"), Some(Admittance::Any));
    }

    #[test]
    fn every_bad_entry_is_reported_with_its_reason() {
        let errors = Origins::parse(&[
            "app.example.com",
            "https://app.example.com/",
            "https://ok.example.com",
            "https://a*.example.com",
            "https://host:http",
            "https://host:70000",
            "https://::1",
            "https://[::1",
            "https://bücher.example",
            "https://u@host",
            "https://",
        ])
        .unwrap_err();
        let reasons: Vec<_> = errors.iter().map(|e| (e.text.as_str(), e.why)).collect();
        assert_eq!(
            reasons,
            [
                ("app.example.com", "it has no scheme"),
                ("https://app.example.com/", "an origin has no path, not even a closing slash"),
                (
                    "https://a*.example.com",
                    "'*' stands alone, or for the subdomains of a domain as in https://*.example.com"
                ),
                ("https://host:http", "its port is not a number"),
                ("https://host:70000", "its port is larger than 65535"),
                ("https://::1", "an IPv6 address is written in brackets"),
                ("https://[::1", "its IPv6 address has no closing bracket"),
                (
                    "https://bücher.example",
                    "its host is not ASCII; write it as browsers send it, as in xn--bcher-kva.example"
                ),
                ("https://u@host", "an origin has no user name"),
                ("https://", "it has no host"),
            ]
        );
    }
}
