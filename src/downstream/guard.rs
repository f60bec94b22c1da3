//! Whether a request may pass, decided on its head alone: before any upgrade, before anything goes upstream.

use http::{header::ORIGIN, request::Parts};

use super::{ConnInfo, Cors, Edge, Rejection};

/// Checks whom a request is for, if there is a list, and where it comes from.
///
/// A request without an `Origin` header passes, a WebSocket upgrade too. What the check protects from is a page that
/// uses its visitor's browser, and with it the visitor's cookies and network, to call. Every browser puts `Origin`
/// on every WebSocket handshake (RFC 6455, section 4.1) and on every cross-origin POST (Fetch standard, "Origin
/// header"), and no page can take it off. So a request without one was not made by another site's page; it comes
/// from a native client, which could write any origin it likes.
pub(crate) fn check(edge: &Edge, head: &Parts, conn: &ConnInfo) -> Result<Cors, Rejection> {
    if !edge.settings().hosts.allow(&head.headers, &head.uri) {
        return Err(Rejection::host());
    }
    let mut origins = head.headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(Cors::default()) };
    if origins.next().is_some() {
        return Err(Rejection::origin(b"(several)"));
    }
    let settings = &edge.settings().origins;
    match settings.admittance(origin.as_bytes(), &head.headers, &head.uri, conn.tls) {
        Some(admittance) => Ok(Cors::new(origin.clone(), admittance)),
        None => Err(Rejection::origin(origin.as_bytes())),
    }
}
