//! Cookies by name, and those that routes turn into metadata.

use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use crate::wire::metadata::text_value;

/// The cookies of these names among those of a request, as one `cookie` value; `None`: there are none.
pub(crate) fn named(names: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept = BytesMut::new();
    for (name, value) in all(headers).filter(|(name, _)| names.iter().any(|own| own.as_bytes() == *name)) {
        if !kept.is_empty() {
            kept.put_slice(b"; ");
        }
        kept.put_slice(name);
        kept.put_u8(b'=');
        kept.put_slice(value);
    }
    if kept.is_empty() {
        return None;
    }
    Some(
        HeaderValue::from_maybe_shared(kept.freeze())
            .expect("parts of values and what joins them are a value"),
    )
}

/// Turns cookies of a request into metadata. What the client says under those names is dropped, whether the cookie is
/// there or not: a page could forge it. Of several cookies of a name the first counts: browsers send that of the
/// longest path first (RFC 6265, section 5.4). A value that is not printable ASCII is none.
pub(crate) fn add(cookies: &[(String, HeaderName)], picked: &HeaderMap, metadata: &mut HeaderMap) {
    for (cookie, name) in cookies {
        metadata.remove(name);
        let found = all(picked).find(|(own, _)| *own == cookie.as_bytes());
        let text = found.and_then(|(_, value)| std::str::from_utf8(value).ok());
        if let Some(value) = text.and_then(text_value) {
            metadata.insert(name, value);
        }
    }
}

/// Names and values of all cookies (RFC 6265, section 4.2.1), however many headers they are cut into.
fn all(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lists = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    lists.flat_map(|list| list.split(|&b| b == b';')).filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|&b| b == b'=')?;
        Some((pair[..equals].trim_ascii_end(), pair[equals + 1..].trim_ascii_start()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn cookies_are_found_by_their_whole_name_in_any_of_the_headers() {
        let headers = headers(&["a=1; xsession=no;session = s-1 ;b", "session=s-2; =empty; c=x=y"]);
        let names = ["session".to_owned(), "c".to_owned(), "none".to_owned()];
        assert_eq!(named(&names, &headers).unwrap(), "session=s-1; session=s-2; c=x=y");
        assert_eq!(named(&["Session".to_owned()], &headers), None, "names have their case");
    }

    #[test]
    fn a_cookie_becomes_metadata_in_place_of_what_the_client_says() {
        let name = HeaderName::from_static("x-session");
        let rules =
            [("session".to_owned(), name.clone()), ("gone".to_owned(), HeaderName::from_static("x-gone"))];
        let mut metadata: HeaderMap = [
            (name.clone(), HeaderValue::from_static("forged")),
            (HeaderName::from_static("x-gone"), HeaderValue::from_static("forged")),
        ]
        .into_iter()
        .collect();
        add(&rules, &headers(&["session=first; session=second"]), &mut metadata);
        assert_eq!(metadata, [(name, HeaderValue::from_static("first"))].into_iter().collect::<HeaderMap>());
    }
}
