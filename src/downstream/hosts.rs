//! The names under which the proxy may be reached.

use http::{HeaderMap, Uri};

use super::origin::{authority, host_form};

/// The names (`edge.example.com`, `*.example.com`) that requests may be for. Empty: any. A list protects from pages
/// that rebind a name of their own to the proxy's address: their requests, and their origin, have that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<Host>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    /// In the form that is compared; with its dot (`.example.com`) for the names below a domain.
    name: String,
    /// `None`: any.
    port: Option<u16>,
}

impl Hosts {
    /// Adds a name: `edge.example.com` (on any port), `edge.example.com:8443`, `*.example.com`, `[::1]`. Otherwise says
    /// why it is none.
    pub fn add(&mut self, entry: &str) -> Result<(), &'static str> {
        if entry.contains("://") || entry.contains('/') {
            return Err("it is a URL; leave out scheme and path");
        }
        let (wildcard, entry) = match entry.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, entry),
        };
        let (name, port) = split(entry);
        let port =
            port.map(|port| port.parse().map_err(|_| "its port is no number up to 65535")).transpose()?;
        let mut name = host_form(name)?.into_owned();
        if wildcard {
            name.insert(0, '.');
        }
        self.0.push(Host { name, port });
        Ok(())
    }

    /// Whether a request for this authority (or with this `host`) is for us. One that does not say is not.
    pub(crate) fn allow(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        self.0.is_empty() || authority(headers, uri).is_some_and(|authority| self.contains(authority))
    }

    fn contains(&self, authority: &str) -> bool {
        let (name, port) = split(authority);
        let Ok(name) = host_form(name) else { return false };
        let port = port.map(str::parse).transpose().ok();
        self.0.iter().any(|host| {
            let is_name = if host.name.starts_with('.') {
                name.len() > host.name.len() && name.ends_with(&host.name)
            } else {
                *name == *host.name
            };
            is_name && host.port.is_none_or(|own| port == Some(Some(own)))
        })
    }
}

/// A host and its port.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        // A colon within brackets belongs to the address.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use http::header::HOST;

    use super::*;

    fn hosts(entries: &[&str]) -> Hosts {
        let mut hosts = Hosts::default();
        entries.iter().for_each(|entry| hosts.add(entry).unwrap());
        hosts
    }

    #[test]
    fn only_requests_for_listed_names_are_for_us() {
        let hosts = hosts(&["Edge.example.com", "*.preview.example.com", "local:8080", "[::1]"]);
        for ours in [
            "edge.example.com",
            "EDGE.EXAMPLE.COM:8443",
            "a.preview.example.com",
            "local:8080",
            "[::1]:99",
            "[0::1]",
        ] {
            assert!(hosts.contains(ours), "{ours}");
        }
        for other in [
            "example.com",
            "preview.example.com",
            ".preview.example.com",
            "edge.example.com.evil.net",
            "local",
            "local:8081",
            "127.0.0.1",
            "",
        ] {
            assert!(!hosts.contains(other), "{other}");
        }
    }

    #[test]
    fn without_a_list_every_name_will_do_and_with_one_a_request_must_have_one() {
        let uri = Uri::from_static("/a.B/C");
        assert!(Hosts::default().allow(&HeaderMap::new(), &uri));
        let hosts = hosts(&["a.example"]);
        assert!(!hosts.allow(&HeaderMap::new(), &uri));
        let mut headers = HeaderMap::new();
        headers.append(HOST, "a.example".parse().unwrap());
        assert!(hosts.allow(&headers, &uri));
        headers.append(HOST, "b.example".parse().unwrap());
        assert!(!hosts.allow(&headers, &uri), "two hosts are none");
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_reason() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.add("https://a.example"), Err("it is a URL; leave out scheme and path"));
        assert_eq!(hosts.add("a.example:70000"), Err("its port is no number up to 65535"));
        assert_eq!(hosts.add("a b"), Err("its host has characters that a host cannot have"));
        assert_eq!(hosts.add("*"), Err("its host has characters that a host cannot have"));
        assert_eq!(hosts.add(""), Err("it has no host"));
    }
}
