//! Headers of HTTP requests that become metadata because the configuration says so.

use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

/// Those of `headers` that are named, in gRPC's form: one `cookie` entry, however many a client cut it into
/// (RFC 9113, section 8.2.3).
pub(crate) fn pick(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in names {
        if name == COOKIE {
            if let Some(cookie) = joined(headers) {
                picked.insert(COOKIE, cookie);
            }
            continue;
        }
        for value in headers.get_all(name) {
            picked.append(name, value.clone());
        }
    }
    picked
}

/// Adds them to a call's metadata, in place of what the client says under the same names: a page can write any
/// metadata, but not its cookies, nor what a proxy before this one has put into the upgrade.
pub(crate) fn add(picked: &HeaderMap, metadata: &mut HeaderMap) {
    for name in picked.keys() {
        metadata.remove(name);
        for value in picked.get_all(name) {
            metadata.append(name, value.clone());
        }
    }
}

fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(COOKIE).iter();
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first.clone());
    }
    let mut joined = BytesMut::new();
    for value in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.put_slice(b"; ");
        }
        joined.put_slice(value.as_bytes());
    }
    Some(HeaderValue::from_maybe_shared(joined.freeze()).expect("values joined by a semicolon are a value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_picked_and_cookies_become_one() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        headers.append("x-user", HeaderValue::from_static("ada"));
        headers.append("x-other", HeaderValue::from_static("no"));
        let picked =
            pick(&[COOKIE, HeaderName::from_static("x-user"), HeaderName::from_static("x-none")], &headers);
        assert_eq!(
            (picked.len(), &picked["cookie"], &picked["x-user"]),
            (2, &"a=1; b=2".parse().unwrap(), &"ada".parse().unwrap())
        );
        assert!(pick(&[], &headers).is_empty());
    }

    #[test]
    fn what_the_upgrade_said_replaces_what_the_page_says() {
        let mut picked = HeaderMap::new();
        picked.insert("x-user", HeaderValue::from_static("ada"));
        let mut metadata = HeaderMap::new();
        metadata.append("x-user", HeaderValue::from_static("eve"));
        metadata.append("x-user", HeaderValue::from_static("mallory"));
        metadata.append("x-page", HeaderValue::from_static("stays"));
        add(&picked, &mut metadata);
        assert_eq!(metadata.get_all("x-user").iter().collect::<Vec<_>>(), ["ada"]);
        assert_eq!(metadata["x-page"], "stays");
    }
}
