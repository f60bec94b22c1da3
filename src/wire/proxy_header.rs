//! The header by which a proxy below HTTP says for whom it connects: the PROXY protocol of HAProxy, versions 1 and 2
//! (`doc/proxy-protocol.txt` of HAProxy 3).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const V1: &[u8; 6] = b"PROXY ";

/// The longest line of version 1, with its end (section 2.1).
const V1_MAX: usize = 107;

/// Version 2's fixed part.
const V2_FIXED: usize = 16;

/// The largest header that is taken. Version 2 could have 64 KiB; proxies send some dozens of bytes, and a few hundred
/// with a client certificate's name.
pub const MAX_HEADER: usize = 4096;

/// The TLV that tells of TLS between client and proxy (section 2.2.6), and its bit for "there was TLS".
const TYPE_SSL: u8 = 0x20;
const CLIENT_SSL: u8 = 1;

/// For whom a proxy connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client; `None`: the proxy comes for itself (LOCAL, a health check), or does not know (UNKNOWN, a Unix
    /// socket).
    pub client: Option<SocketAddr>,
    /// Whether the client came to the proxy by TLS; `None`: the header does not say.
    pub tls: Option<bool>,
}

/// A connection that does not begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY header; does the proxy before this port send one?")]
    Missing,
    /// Another version than 1 and 2, or a command that there is not.
    #[error(
        "version and command {0:#04x} are not known; there are version 1, and 0x20 and 0x21 of version 2"
    )]
    Version(u8),
    /// Larger than [`MAX_HEADER`], or a line without end.
    #[error("the PROXY header is too long")]
    TooLong,
    /// A line of version 1 that says nothing.
    #[error("the PROXY line cannot be read; it has the form PROXY TCP4 SOURCE DESTINATION PORT PORT")]
    Line,
    /// Version 2's addresses do not fit into its length.
    #[error("the PROXY header's addresses are cut off")]
    Addresses,
}

/// Reads a header that a connection begins with; `Ok(None)` when not all of it is there yet. With the header comes its
/// length: what stands behind is the client's.
///
/// As long as it says that more is needed, all that there is belongs to the header.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'\r') => parse_v2(bytes),
        Some(_) => parse_v1(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let known = bytes.len().min(V1.len());
    if bytes[..known] != V1[..known] {
        return Err(ProxyHeaderError::Missing);
    }
    let line = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = line.iter().position(|&b| b == b'\n') else {
        return if line.len() == V1_MAX { Err(ProxyHeaderError::TooLong) } else { Ok(None) };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(ProxyHeaderError::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| ProxyHeaderError::Line)?;
    Ok(Some((ProxyHeader { client: v1_client(text).ok_or(ProxyHeaderError::Line)?, tls: None }, end + 1)))
}

/// The source of a line without its end; within, `None`: it is not known.
fn v1_client(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None); // whatever follows (section 2.1)
    }
    let [source, destination, port, other_port] =
        [words.next()?, words.next()?, words.next()?, words.next()?];
    let (source, _): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    let fits = match family {
        "TCP4" => source.is_ipv4(),
        "TCP6" => source.is_ipv6(),
        _ => false,
    };
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let all_numbers = is_number(port) && is_number(other_port);
    let (port, _): (u16, u16) = (port.parse().ok()?, other_port.parse().ok()?);
    let complete = fits && all_numbers && words.next().is_none();
    complete.then(|| Some(SocketAddr::new(source, port)))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(ProxyHeaderError::Missing);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else { return Ok(None) };
    let [.., version_command, family, high, low] = *fixed;
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        other => return Err(ProxyHeaderError::Version(other)),
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + len > MAX_HEADER {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let header = if is_local { ProxyHeader { client: None, tls: None } } else { v2_header(family, body)? };
    Ok(Some((header, V2_FIXED + len)))
}

fn v2_header(family: u8, body: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    const CUT: ProxyHeaderError = ProxyHeaderError::Addresses;
    let (client, tlvs) = match family >> 4 {
        1 => {
            let (a, rest) = body.split_first_chunk::<12>().ok_or(CUT)?;
            let address = Ipv4Addr::new(a[0], a[1], a[2], a[3]);
            (Some(SocketAddr::new(address.into(), u16::from_be_bytes([a[8], a[9]]))), rest)
        }
        2 => {
            let (a, rest) = body.split_first_chunk::<36>().ok_or(CUT)?;
            let (address, _) = a.split_first_chunk::<16>().ok_or(CUT)?;
            let address = Ipv6Addr::from(*address);
            (Some(SocketAddr::new(address.into(), u16::from_be_bytes([a[32], a[33]]))), rest)
        }
        3 => (None, body.get(216..).ok_or(CUT)?),
        // Section 2.2: a family that is not known is as good as none, and its addresses cannot be told from the TLVs.
        _ => (None, &[][..]),
    };
    Ok(ProxyHeader { client, tls: v2_tls(tlvs) })
}

/// What the TLVs tell of TLS. What is broken in them is nobody's address, and ends the search.
fn v2_tls(mut tlvs: &[u8]) -> Option<bool> {
    while let Some(([kind, high, low], rest)) = tlvs.split_first_chunk::<3>() {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *kind == TYPE_SSL {
            return value.first().map(|client| client & CLIENT_SSL != 0);
        }
        tlvs = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4_BODY: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

    fn client(bytes: &[u8]) -> Option<SocketAddr> {
        let (header, len) = parse(bytes).unwrap().unwrap();
        assert_eq!(len, bytes.len());
        header.client
    }

    #[test]
    fn version_1_names_the_client() {
        let v4 = client(b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n");
        assert_eq!(v4, Some("203.0.113.9:4711".parse().unwrap()));
        let v6 = client(b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n");
        assert_eq!(v6, Some("[2001:db8::9]:4711".parse().unwrap()));
    }

    #[test]
    fn a_proxy_that_comes_for_itself_or_does_not_know_names_nobody() {
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        assert_eq!(client(&v2(0x20, 0x11, &V4_BODY)), None, "LOCAL");
        assert_eq!(client(&v2(0x20, 0, &[])), None);
        assert_eq!(client(&v2(0x21, 0x31, &[b'/'; 216])), None, "a Unix socket");
        assert_eq!(client(&v2(0x21, 0, &[1, 2, 3])), None, "UNSPEC");
    }

    #[test]
    fn version_2_names_the_client_and_tells_of_its_tls() {
        assert_eq!(client(&v2(0x21, 0x11, &V4_BODY)), Some("203.0.113.9:4711".parse().unwrap()));
        let mut v6 = "2001:db8::9".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        v6.extend([0; 16]);
        v6.extend([0x12, 0x67, 0x01, 0xbb]);
        assert_eq!(client(&v2(0x21, 0x21, &v6)), Some("[2001:db8::9]:4711".parse().unwrap()));
        for (flags, tls) in [(0x07, true), (0x00, false)] {
            let unique_id = [5, 0, 2, b'i', b'd'];
            let ssl = [TYPE_SSL, 0, 5, flags, 0, 0, 0, 0];
            let body = [&V4_BODY[..], &unique_id, &ssl].concat();
            assert_eq!(parse(&v2(0x21, 0x11, &body)).unwrap().unwrap().0.tls, Some(tls));
        }
        assert_eq!(parse(&v2(0x21, 0x11, &V4_BODY)).unwrap().unwrap().0.tls, None);
        let broken = [&V4_BODY[..], &[TYPE_SSL, 0xff, 0xff, 1]].concat();
        assert_eq!(client(&v2(0x21, 0x11, &broken)), Some("203.0.113.9:4711".parse().unwrap()));
    }

    #[test]
    fn what_follows_the_header_is_left_to_the_client() {
        let mut bytes = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n".to_vec();
        let len = bytes.len();
        bytes.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(parse(&bytes).unwrap().unwrap().1, len);
        let mut bytes = v2(0x21, 0x11, &V4_BODY);
        bytes.extend([0x16, 3, 1]);
        assert_eq!(parse(&bytes).unwrap().unwrap().1, 28);
    }

    #[test]
    fn a_connection_that_begins_otherwise_is_found_out_at_its_first_wrong_byte() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIX",
            b"\x16\x03\x01",
            b"PRI * HTTP/2.0",
        ] {
            assert_eq!(parse(bytes), Err(ProxyHeaderError::Missing), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_that_says_nothing_is_refused_with_the_reason() {
        for line in [
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443 1\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 70000\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 +711 443\r\n",
            "PROXY TCP4  203.0.113.9 10.0.0.1 4711 443\r\n",
            "PROXY UDP4 203.0.113.9 10.0.0.1 4711 443\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyHeaderError::Line), "{line:?}");
        }
        assert_eq!(parse(&v2(0x22, 0x11, &V4_BODY)), Err(ProxyHeaderError::Version(0x22)));
        assert_eq!(parse(&v2(0x31, 0x11, &V4_BODY)), Err(ProxyHeaderError::Version(0x31)));
        assert_eq!(parse(&v2(0x21, 0x11, &V4_BODY[..11])), Err(ProxyHeaderError::Addresses));
        assert_eq!(parse(&v2(0x21, 0x21, &V4_BODY)), Err(ProxyHeaderError::Addresses));
        assert_eq!(parse(&v2(0x21, 0x31, &[0; 215])), Err(ProxyHeaderError::Addresses));
    }

    #[test]
    fn a_header_without_end_is_not_waited_for() {
        let line = [V1.as_slice(), &[b'x'; 200]].concat();
        assert_eq!(parse(&line[..V1_MAX - 1]), Ok(None));
        assert_eq!(parse(&line[..V1_MAX]), Err(ProxyHeaderError::TooLong));
        let fixed = &v2(0x21, 0x11, &[0; MAX_HEADER])[..V2_FIXED];
        assert_eq!(parse(fixed), Err(ProxyHeaderError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_header_ends_within_them(mut bytes in vec(any::<u8>(), 0..300), start in 0..3usize) {
            let start: &[u8] = [&[], V1.as_slice(), SIGNATURE][start];
            bytes.splice(0..0, start.iter().copied());
            if let Ok(Some((_, len))) = parse(&bytes) {
                prop_assert!(len <= bytes.len() && len <= MAX_HEADER);
            }
        }

        #[test]
        fn a_header_cut_in_pieces_is_the_same_header(
            a in any::<[u8; 4]>(), port: u16, v2_: bool, tail in vec(any::<u8>(), 0..40)
        ) {
            let source = Ipv4Addr::from(a);
            let header = if v2_ {
                let [high, low] = port.to_be_bytes();
                v2(0x21, 0x11, &[&a[..], &[10, 0, 0, 1, high, low, 1, 187]].concat())
            } else {
                format!("PROXY TCP4 {source} 10.0.0.1 {port} 443\r\n").into_bytes()
            };
            let all = [&header[..], &tail].concat();
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&all[..cut]), Ok(None), "{} bytes", cut);
            }
            let expected = ProxyHeader { client: Some(SocketAddr::new(source.into(), port)), tls: None };
            for cut in header.len()..=all.len() {
                prop_assert_eq!(parse(&all[..cut]), Ok(Some((expected, header.len()))));
            }
        }
    }
}
