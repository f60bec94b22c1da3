//! Fetches an issuer's keys: one GET, no redirects.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::ACCEPT};

use crate::upstream::{ClientTls, HttpError, HttpUrl, http_request};

/// Where an issuer publishes its keys, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct JwksUrl {
    /// The place.
    pub url: HttpUrl,
    /// For `https`.
    pub tls: ClientTls,
    /// How often it is asked. 5 min.
    pub refresh: Duration,
    /// How long it may take. 5 s.
    pub timeout: Duration,
}

impl JwksUrl {
    /// The defaults.
    pub fn new(url: HttpUrl, tls: ClientTls) -> Self {
        Self { url, tls, refresh: Duration::from_secs(300), timeout: Duration::from_secs(5) }
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the answer is HTTP {0}, and not 200; redirects are not followed")]
    Status(StatusCode),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The document at a URL.
pub(super) async fn fetch(from: &JwksUrl) -> Result<Bytes, FetchError> {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    let asked = http_request(&from.url, &from.tls, Method::GET, headers, Bytes::new());
    match tokio::time::timeout(from.timeout, asked).await {
        Ok(answer) => match answer? {
            (StatusCode::OK, document) => Ok(document),
            (status, _) => Err(FetchError::Status(status)),
        },
        Err(_) => Err(FetchError::Timeout(from.timeout)),
    }
}
