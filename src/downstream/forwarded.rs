//! The header `forwarded`: RFC 7239.

use http::{HeaderMap, HeaderValue, header::FORWARDED};

/// What one proxy says of whom it got the request from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// An address, perhaps with a port; `unknown`, or a name that hides it.
    pub(super) client: Option<String>,
    /// Whether it came by TLS.
    pub(super) tls: Option<bool>,
}

/// What the proxies say, in the order of the way. `None`: what cannot be read.
pub(super) fn elements(headers: &HeaderMap) -> Vec<Option<Element>> {
    let mut elements = Vec::new();
    for value in headers.get_all(FORWARDED) {
        match value.to_str().ok().and_then(|text| split(text, ',')) {
            Some(parts) => elements.extend(parts.iter().map(|part| element(part))),
            None => elements.push(None),
        }
    }
    elements
}

fn element(text: &str) -> Option<Element> {
    let mut element = Element::default();
    for pair in split(text, ';')?.iter().map(|pair| pair.trim()).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        if name.eq_ignore_ascii_case("for") {
            // Each at most once, section 4.
            if element.client.replace(unquoted(value)).is_some() {
                return None;
            }
        } else if name.eq_ignore_ascii_case("proto") {
            let value = unquoted(value);
            element.tls = match () {
                () if value.eq_ignore_ascii_case("https") => Some(true),
                () if value.eq_ignore_ascii_case("http") => Some(false),
                () => None,
            };
        }
    }
    Some(element)
}

/// Cuts outside of quoted strings. `None`: one does not end.
fn split(text: &str, at: char) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == at && !quoted => {
                parts.push(&text[from..index]);
                from = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// A token as it is, or what a quoted string says.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut escaped = false;
    inner
        .chars()
        .filter(|c| {
            escaped = *c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

/// What the proxies said, as `x-forwarded-for` with the last proxy itself appended: services know that form.
pub(super) fn chain(elements: &[Option<Element>], proxy: &HeaderValue) -> HeaderValue {
    let mut chain = String::new();
    for element in elements {
        let client = element.as_ref().and_then(|element| element.client.as_deref());
        let address = client.and_then(super::trusted_proxies::address);
        chain.push_str(&address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string()));
        chain.push_str(", ");
    }
    chain.push_str(proxy.to_str().unwrap_or("unknown"));
    HeaderValue::try_from(chain).unwrap_or_else(|_| proxy.clone())
}
