//! What browsers need to hear before a page may read an answer (Fetch standard, "CORS protocol").

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, VARY,
    },
};

use super::origin::Admittance;

/// Named to every page, although most answers carry them in the body: a client looks for them in both places.
const ALWAYS_EXPOSED: &str =
    "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, bidiway-origin";

/// How long a browser may remember a preflight: 2 hours, the most that Chromium takes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The admitted origin of a request, for its response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    origin: Option<(HeaderValue, Admittance)>,
}

impl Cors {
    /// For a request of this origin, which the guard has admitted.
    pub(crate) fn new(origin: HeaderValue, admittance: Admittance) -> Self {
        Self { origin: Some((origin, admittance)) }
    }

    /// Lets the page read the response: its body, and every header that is in it by now. Without an origin there is
    /// no page.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        let Some((origin, admittance)) = &self.origin else { return };
        let mut exposed = String::from(ALWAYS_EXPOSED);
        for name in headers.keys() {
            if !is_safelisted(name) && !ALWAYS_EXPOSED.split(", ").any(|always| always == name.as_str()) {
                exposed.push_str(", ");
                exposed.push_str(name.as_str());
            }
        }
        if let Ok(exposed) = HeaderValue::from_str(&exposed) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        allow(headers, origin, *admittance);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }

    /// Answers a preflight. Which headers a page may send is not restricted: metadata has any name, and whether
    /// this origin may call at all is already decided.
    pub(crate) fn preflight(&self, request: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        if let Some((origin, admittance)) = &self.origin {
            allow(headers, origin, *admittance);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        let asked = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|v| v.to_str().ok());
        let asked: Vec<&str> =
            asked.flat_map(|names| names.split(',')).map(str::trim).filter(is_name).collect();
        if let Ok(asked) = HeaderValue::from_str(&asked.join(", "))
            && !asked.is_empty()
        {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
        let vary = "origin, access-control-request-method, access-control-request-headers";
        headers.insert(VARY, HeaderValue::from_static(vary));
        response
    }
}

/// Names the origin itself, never `*`: the answer is for this page, and `*` does not go with credentials. Those are
/// for origins that the configuration names.
fn allow(headers: &mut HeaderMap, origin: &HeaderValue, admittance: Admittance) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if admittance == Admittance::Listed {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Names that browsers show without being told to, and those of CORS itself.
fn is_safelisted(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("access-control-")
        || matches!(
            name,
            "cache-control"
                | "content-language"
                | "content-length"
                | "content-type"
                | "expires"
                | "last-modified"
                | "pragma"
                | "vary"
        )
}

fn is_name(name: &&str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(admittance: Admittance) -> Cors {
        Cors::new(HeaderValue::from_static("https://app.example"), admittance)
    }

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let entries = entries.iter();
        entries.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_preflight_allows_post_with_every_header_that_was_asked_for() {
        let asked = headers(&[(
            "access-control-request-headers",
            "content-type,X-Grpc-Web, x-user-agent,grpc-timeout,connect-protocol-version,authorization,x-my-key-bin",
        )]);
        let answer = cors(Admittance::Listed).preflight(&asked);
        assert_eq!(answer.status(), 204);
        let answer = answer.headers();
        assert_eq!(answer["access-control-allow-origin"], "https://app.example");
        assert_eq!(answer["access-control-allow-methods"], "POST");
        assert_eq!(
            answer["access-control-allow-headers"],
            "content-type, X-Grpc-Web, x-user-agent, grpc-timeout, connect-protocol-version, authorization, \
             x-my-key-bin"
        );
        assert_eq!(answer["access-control-max-age"], "7200");
        assert_eq!(answer["vary"], "origin, access-control-request-method, access-control-request-headers");
    }

    #[test]
    fn a_preflight_echoes_no_text_that_is_no_header_name() {
        let asked = headers(&[("access-control-request-headers", "x-good, b d, ,\"quoted\", <script>")]);
        let answer = cors(Admittance::Listed).preflight(&asked);
        assert_eq!(answer.headers()["access-control-allow-headers"], "x-good");
        let answer = cors(Admittance::Listed).preflight(&HeaderMap::new());
        assert!(!answer.headers().contains_key("access-control-allow-headers"));
    }

    #[test]
    fn every_header_actually_sent_is_exposed_once() {
        let mut sent =
            headers(&[("content-type", "application/grpc-web"), ("x-request-id", "7"), ("grpc-status", "5")]);
        sent.append("x-request-id", HeaderValue::from_static("8"));
        cors(Admittance::Any).write_to(&mut sent);
        assert_eq!(
            sent["access-control-expose-headers"],
            "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, bidiway-origin, x-request-id"
        );
        assert_eq!(sent["vary"], "origin");
    }

    #[test]
    fn credentials_are_allowed_to_listed_origins_alone() {
        for (admittance, allowed) in
            [(Admittance::Listed, true), (Admittance::Any, false), (Admittance::SameOrigin, false)]
        {
            let mut sent = HeaderMap::new();
            cors(admittance).write_to(&mut sent);
            assert_eq!(sent.contains_key("access-control-allow-credentials"), allowed, "{admittance:?}");
            assert_eq!(sent["access-control-allow-origin"], "https://app.example", "never *");
        }
    }

    #[test]
    fn a_request_without_an_origin_gets_no_cors_headers() {
        let mut sent = HeaderMap::new();
        Cors::default().write_to(&mut sent);
        assert!(sent.is_empty());
    }
}
