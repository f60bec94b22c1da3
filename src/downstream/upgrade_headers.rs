//! Headers of HTTP requests that become metadata because the configuration says so.

use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::{Settings, cookies};

/// Those of `headers` that are named, in gRPC's form: one `cookie` entry, however many a client cut it into
/// (RFC 9113, section 8.2.3). Where `cookie` is not named, it is there all the same, with the cookies that routes look
/// for; [`add`] leaves it out.
pub(crate) fn pick(settings: &Settings, headers: &HeaderMap) -> HeaderMap {
    let mut picked = HeaderMap::new();
    if !settings.cookies.is_empty()
        && let Some(cookies) = cookies::named(&settings.cookies, headers)
    {
        picked.insert(COOKIE, cookies);
    }
    for name in &settings.upgrade_headers {
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
pub(crate) fn add(picked: &HeaderMap, settings: &Settings, metadata: &mut HeaderMap) {
    for name in picked.keys().filter(|name| settings.upgrade_headers.contains(name)) {
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
    use http::HeaderName;

    use super::*;

    fn naming(upgrade_headers: &[HeaderName]) -> Settings {
        Settings { upgrade_headers: upgrade_headers.to_vec(), ..Settings::default() }
    }

    #[test]
    fn only_what_is_named_is_picked_and_cookies_become_one() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        headers.append("x-user", HeaderValue::from_static("ada"));
        headers.append("x-other", HeaderValue::from_static("no"));
        let names = [COOKIE, HeaderName::from_static("x-user"), HeaderName::from_static("x-none")];
        let picked = pick(&naming(&names), &headers);
        assert_eq!(
            (picked.len(), &picked["cookie"], &picked["x-user"]),
            (2, &"a=1; b=2".parse().unwrap(), &"ada".parse().unwrap())
        );
        assert!(pick(&naming(&[]), &headers).is_empty());
    }

    #[test]
    fn a_cookie_that_only_routes_look_for_is_picked_alone_and_not_added() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; session=s-1"));
        let settings = Settings { cookies: vec!["session".into()], ..Settings::default() };
        let picked = pick(&settings, &headers);
        assert_eq!(picked["cookie"], "session=s-1");
        let mut metadata = HeaderMap::new();
        add(&picked, &settings, &mut metadata);
        assert!(metadata.is_empty(), "{metadata:?}");

        let both = Settings { upgrade_headers: vec![COOKIE], ..settings };
        assert_eq!(pick(&both, &headers)["cookie"], "a=1; session=s-1");
    }

    #[test]
    fn what_the_upgrade_said_replaces_what_the_page_says() {
        let mut picked = HeaderMap::new();
        picked.insert("x-user", HeaderValue::from_static("ada"));
        let mut metadata = HeaderMap::new();
        metadata.append("x-user", HeaderValue::from_static("eve"));
        metadata.append("x-user", HeaderValue::from_static("mallory"));
        metadata.append("x-page", HeaderValue::from_static("stays"));
        add(&picked, &naming(&[HeaderName::from_static("x-user")]), &mut metadata);
        assert_eq!(metadata.get_all("x-user").iter().collect::<Vec<_>>(), ["ada"]);
        assert_eq!(metadata["x-page"], "stays");
    }
}
