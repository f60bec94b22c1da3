//! Fetches a document from an issuer. Not a client for everything: one GET, no redirects.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::upstream::ClientTls;

/// The largest document, in bytes. A key takes some 500.
const MAX_DOCUMENT: usize = 256 * 1024;

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

/// An `http` or `https` URL without user and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    is_https: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Text that is no URL to fetch from; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no URL to fetch keys from; write one such as https://id.example.com/.well-known/jwks.json")]
pub struct InvalidUrl(String);

impl FromStr for HttpUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.host().is_empty() || authority.as_str().contains('@') || text.contains('#') {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { is_https, host, port, authority: authority.to_string(), path })
    }
}

impl HttpUrl {
    /// Whether it is fetched over TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("{0:?} is no name that a certificate can carry")]
    Name(String),
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is HTTP {0}, and not 200; redirects are not followed")]
    Status(StatusCode),
    #[error("the document cannot be read, or has more than {MAX_DOCUMENT} bytes: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The document at a URL.
pub(super) async fn fetch(from: &JwksUrl) -> Result<Bytes, FetchError> {
    match tokio::time::timeout(from.timeout, get(from)).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout(from.timeout)),
    }
}

async fn get(from: &JwksUrl) -> Result<Bytes, FetchError> {
    let url = &from.url;
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(FetchError::Connect)?;
    if !url.is_https {
        return exchange(url, tcp).await;
    }
    let mut config = ClientConfig::clone(&from.tls.config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = from.tls.server_name.as_ref().unwrap_or(&url.host);
    let name = ServerName::try_from(name.clone()).map_err(|_| FetchError::Name(name.clone()))?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(FetchError::Connect)?;
    exchange(url, tls).await
}

async fn exchange(
    url: &HttpUrl,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(url.path.as_str())
        .header(header::HOST, url.authority.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("bidiway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .expect("host and path came from a URL");
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
    Ok(body.map_err(FetchError::Body)?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_can_be_fetched_are_taken() {
        let url: HttpUrl = "https://id.example.com/keys?v=1".parse().unwrap();
        assert_eq!((url.port, url.path.as_str(), url.is_https()), (443, "/keys?v=1", true));
        let url: HttpUrl = "http://[::1]:8080".parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.to_string()),
            ("::1", 8080, "http://[::1]:8080/".into())
        );
        for wrong in
            ["", "id.example.com", "ftp://a/b", "https://", "https://a@b/c", "/keys", "https://a/b#c"]
        {
            assert!(wrong.parse::<HttpUrl>().is_err(), "{wrong}");
        }
    }
}
