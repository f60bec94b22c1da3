//! The proxies before this one that are believed, and who the client is by what they say.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ConnInfo, forwarded};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The most entries that are looked at, from the right. Chains of proxies are short.
const MOST_HOPS: usize = 32;

/// Addresses of one prefix: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no network: {why}; write 10.0.0.0/8, 2001:db8::/32 or one address")]
pub struct InvalidNetwork {
    text: String,
    why: &'static str,
}

impl Network {
    /// Whether it has the address. An IPv4 address that is written as IPv6 is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                u32::from(first).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                u128::from(first).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let wrong = |why| InvalidNetwork { text: text.to_owned(), why };
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let first: IpAddr = address.parse().map_err(|_| wrong("its address is none"))?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or_else(|| wrong("its prefix is too long"))?,
            Some(_) => return Err(wrong("its prefix is no number")),
        };
        let network = Self { first, bits };
        if !network.is_first(first) {
            return Err(wrong("its address has bits behind the prefix"));
        }
        Ok(network)
    }
}

impl Network {
    fn is_first(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => u32::from(address).trailing_zeros() >= 32 - u32::from(self.bits),
            IpAddr::V6(address) => u128::from(address).trailing_zeros() >= 128 - u32::from(self.bits),
        }
    }
}

/// The proxies that are believed when they say for whom they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    header: ClientHeader,
}

/// Where trusted proxies say for whom they come. Only one is believed: a proxy that writes one of them may pass on the
/// other as its client wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientHeader {
    /// `x-forwarded-for`, and `x-forwarded-proto`.
    #[default]
    XForwarded,
    /// `forwarded`: RFC 7239.
    Forwarded,
}

impl TrustedProxies {
    /// Those with addresses in these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks, header: ClientHeader::default() }
    }

    /// They say it in this header.
    pub fn with_header(self, header: ClientHeader) -> Self {
        Self { header, ..self }
    }

    /// Nobody is.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether whoever has this address is believed.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Who makes a request on a connection. A trusted proxy's `x-forwarded-for` (or `forwarded`) names the client: its
    /// last address that is no trusted proxy's. So what a client writes itself is never taken for its address: the proxy
    /// that it comes to appends the true one. `x-forwarded-proto` tells the scheme. From anybody else, neither is
    /// believed.
    pub(crate) fn client(&self, conn: &ConnInfo, headers: &HeaderMap) -> Option<ConnInfo> {
        if self.is_empty() || conn.unnamed || !self.contains(conn.peer.ip()) {
            return None;
        }
        let (client, tls, chain) = match self.header {
            ClientHeader::XForwarded => {
                let client =
                    self.first_untrusted(entries_from_the_right(headers).map(|it| it.and_then(address)));
                (client, scheme(headers), chain(headers, &conn.forwarded_for))
            }
            ClientHeader::Forwarded => {
                let elements = forwarded::elements(headers);
                let hops = elements.iter().rev().map(|element| element.as_ref()?.client.as_deref());
                let client = self.first_untrusted(hops.map(|client| client.and_then(address)));
                let tls = elements.last().and_then(|nearest| nearest.as_ref()?.tls);
                (client, tls, forwarded::chain(&elements, &conn.forwarded_for))
            }
        };
        let (peer, tls) = (client.unwrap_or(conn.peer), tls.unwrap_or(conn.tls));
        Some(ConnInfo { peer, tls, forwarded_for: chain, by_proxy: true, ..conn.clone() })
    }

    /// Of addresses that proxies wrote one after another, the last one first: the first that is no trusted proxy's, or
    /// else the last of all. One that cannot be read ends what is known: whoever wrote it is the last that has a name.
    fn first_untrusted(&self, hops: impl Iterator<Item = Option<SocketAddr>>) -> Option<SocketAddr> {
        let mut client = None;
        for address in hops.take(MOST_HOPS).map_while(|address| address) {
            client = Some(address);
            if !self.contains(address.ip()) {
                break;
            }
        }
        client
    }
}

/// The entries of `x-forwarded-for`, the last one first. `None` for what is no text.
fn entries_from_the_right(headers: &HeaderMap) -> impl Iterator<Item = Option<&str>> {
    let values: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
    values.into_iter().rev().flat_map(|value| match value.to_str() {
        Ok(text) => text.rsplit(',').map(|entry| Some(entry.trim())).collect::<Vec<_>>(),
        Err(_) => vec![None],
    })
}

/// An entry's address; some proxies write the port too, and brackets.
pub(super) fn address(entry: &str) -> Option<SocketAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let without_port = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    without_port.or_else(|_| entry.parse::<SocketAddr>()).ok()
}

/// What `x-forwarded-proto` says, if it says one of the two; of several, the nearest proxy's.
fn scheme(headers: &HeaderMap) -> Option<bool> {
    let last = headers.get_all(FORWARDED_PROTO).iter().next_back()?.to_str().ok()?;
    match last.rsplit(',').next()?.trim() {
        scheme if scheme.eq_ignore_ascii_case("https") => Some(true),
        scheme if scheme.eq_ignore_ascii_case("http") => Some(false),
        _ => None,
    }
}

/// What the proxy said, with the proxy itself appended.
fn chain(headers: &HeaderMap, proxy: &HeaderValue) -> HeaderValue {
    let mut chain: Vec<u8> = Vec::new();
    for hop in headers.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(hop.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(proxy.as_bytes());
    HeaderValue::from_bytes(&chain).unwrap_or_else(|_| proxy.clone())
}

/// What tells services who the client is, besides `x-forwarded-for` and `x-forwarded-proto`. A client that says it
/// itself is not heard: many services believe it.
const CLAIMS: [HeaderName; 5] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-ssl"),
];

/// Drops what somebody claims that is no trusted proxy.
pub(crate) fn drop_claims(metadata: &mut HeaderMap) {
    for name in &CLAIMS {
        metadata.remove(name);
    }
}

/// Tells the service who the client is.
pub(crate) fn tell(metadata: &mut HeaderMap, conn: &ConnInfo) {
    metadata.insert(FORWARDED_FOR, conn.forwarded_for.clone());
    let scheme = if conn.tls { "https" } else { "http" };
    metadata.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn headers(entries: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn client(
        proxies: &TrustedProxies,
        peer: &str,
        entries: &[(&str, &str)],
    ) -> Option<(String, bool, String)> {
        let conn = ConnInfo::new(peer.parse().unwrap(), false);
        let client = proxies.client(&conn, &headers(entries))?;
        let chain = client.forwarded_for.to_str().unwrap().to_owned();
        Some((client.peer.ip().to_string(), client.tls, chain))
    }

    #[test]
    fn a_network_has_the_addresses_of_its_prefix_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.200", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} has {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} has not {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_its_reason() {
        for (text, why) in [
            ("10.0.0.0/33", "its prefix is too long"),
            ("::/129", "its prefix is too long"),
            ("10.0.0.1/8", "its address has bits behind the prefix"),
            ("10.0.0.0/", "its prefix is too long"),
            ("10.0.0.0/+8", "its prefix is no number"),
            ("10.0/8", "its address is none"),
            ("proxy.internal", "its address is none"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap_err().why, why, "{text}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxys() {
        let proxies = trusted(&["10.0.0.0/8", "fd00::/8"]);
        let said = |text| client(&proxies, "10.0.0.1:5000", &[("x-forwarded-for", text)]).unwrap().0;
        assert_eq!(said("203.0.113.9"), "203.0.113.9");
        assert_eq!(said("198.51.100.66, 203.0.113.9"), "203.0.113.9", "the first is what the client wrote");
        assert_eq!(said("203.0.113.9, 10.9.9.9, fd00::2"), "203.0.113.9", "two proxies between");
        assert_eq!(said("203.0.113.9:4711"), "203.0.113.9");
        assert_eq!(said("[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(said("[2001:db8::7]"), "2001:db8::7");
        assert_eq!(said("203.0.113.9, unknown"), "10.0.0.1", "nobody knows who said the first");
        assert_eq!(said("203.0.113.9, unknown, 10.2.2.2"), "10.2.2.2");
        assert_eq!(said("10.3.3.3, 10.4.4.4"), "10.3.3.3", "a client within");
        assert_eq!(said(""), "10.0.0.1");
    }

    #[test]
    fn several_header_lines_are_one_chain_to_which_the_proxy_is_appended() {
        let proxies = trusted(&["10.0.0.0/8"]);
        let lines = [("x-forwarded-for", "198.51.100.66"), ("x-forwarded-for", "203.0.113.9, 10.2.2.2")];
        let (address, _, chain) = client(&proxies, "10.0.0.1:5000", &lines).unwrap();
        assert_eq!((&*address, &*chain), ("203.0.113.9", "198.51.100.66, 203.0.113.9, 10.2.2.2, 10.0.0.1"));
    }

    #[test]
    fn a_chain_without_end_is_not_walked() {
        let proxies = trusted(&["0.0.0.0/0"]);
        let long = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(client(&proxies, "10.0.0.1:5000", &[("x-forwarded-for", &long)]).unwrap().0, "10.0.0.2");
    }

    #[test]
    fn the_scheme_is_the_nearest_proxys_and_otherwise_the_connections() {
        let proxies = trusted(&["10.0.0.1"]);
        let tls = |entries| client(&proxies, "10.0.0.1:5000", entries).unwrap().1;
        assert!(tls(&[("x-forwarded-proto", "HTTPS")]));
        assert!(!tls(&[("x-forwarded-proto", "http")]));
        assert!(tls(&[("x-forwarded-proto", "http, https")]));
        assert!(!tls(&[("x-forwarded-proto", "ftp")]));
        assert!(!tls(&[]));
    }

    #[test]
    fn of_forwarded_the_same_holds() {
        let proxies = trusted(&["10.0.0.0/8", "fd00::/8"]).with_header(ClientHeader::Forwarded);
        let said = |text| client(&proxies, "10.0.0.1:5000", &[("forwarded", text)]).unwrap();
        let address = |text| said(text).0;
        assert_eq!(address("for=203.0.113.9"), "203.0.113.9");
        assert_eq!(address("For=\"203.0.113.9:4711\"; by=10.0.0.1; PROTO=https"), "203.0.113.9");
        assert_eq!(address("for=\"[2001:db8::7]:4711\""), "2001:db8::7");
        assert_eq!(address("for=\"[2001:db8::7]\";host=\"a,b;for=1.2.3.4\""), "2001:db8::7");
        assert_eq!(address("for=198.51.100.66, for=203.0.113.9"), "203.0.113.9", "the first is the client's");
        assert_eq!(address("for=203.0.113.9,for=10.9.9.9 , for=\"[fd00::2]\""), "203.0.113.9");
        assert_eq!(address("for=203.0.113.9, for=unknown, for=10.2.2.2"), "10.2.2.2");
        assert_eq!(address("for=203.0.113.9, for=_hidden"), "10.0.0.1");
        assert_eq!(address("for=203.0.113.9, by=10.0.0.9"), "10.0.0.1", "it does not say for whom");
        assert_eq!(address("for=203.0.113.9, for=\"10.0.0.2"), "10.0.0.1", "a quote without an end");
        assert_eq!(address("for=203.0.113.9;for=10.2.2.2"), "10.0.0.1", "twice is once too often");

        assert!(said("for=203.0.113.9;proto=HTTPS").1 && !said("for=203.0.113.9;proto=http").1);
        assert!(said("for=1.1.1.1;proto=http, for=10.2.2.2;proto=https").1, "the nearest proxy's");
        assert!(!said("for=203.0.113.9").1);
        let chain = said("for=198.51.100.66, for=\"[2001:db8::7]:4711\", for=_x, for=10.2.2.2").2;
        assert_eq!(chain, "198.51.100.66, 2001:db8::7, unknown, 10.2.2.2, 10.0.0.1");

        // One of the two: the other is perhaps the client's own word.
        let both = [
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-for", "198.51.100.66"),
            ("x-forwarded-proto", "https"),
        ];
        let (address, tls, chain) = client(&proxies, "10.0.0.1:5000", &both).unwrap();
        assert_eq!((&*address, tls, &*chain), ("203.0.113.9", false, "203.0.113.9, 10.0.0.1"));
        let (address, ..) = client(&trusted(&["10.0.0.0/8"]), "10.0.0.1:5000", &both).unwrap();
        assert_eq!(address, "198.51.100.66");
    }

    #[test]
    fn whoever_is_not_trusted_is_not_believed() {
        let claims = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
        assert_eq!(client(&trusted(&["10.0.0.0/8"]), "192.0.2.7:5000", &claims), None);
        assert_eq!(client(&TrustedProxies::default(), "127.0.0.1:5000", &claims), None);
    }

    #[test]
    fn services_are_told_the_clients_address_and_nothing_that_it_claims() {
        let claims = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-host", "bank.example"),
            ("x-other", "stays"),
        ];
        let conn = ConnInfo::new("192.0.2.7:5000".parse().unwrap(), false);
        let mut metadata = headers(&claims);
        drop_claims(&mut metadata);
        tell(&mut metadata, &conn);
        let expected =
            headers(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "http"), ("x-other", "stays")]);
        assert_eq!(metadata, expected);
    }
}
