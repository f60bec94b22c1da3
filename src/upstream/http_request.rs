//! One request over HTTP/1.1, to what is no gRPC service: an issuer's keys, a collector of traces. Not a client for
//! everything: a connection for each request, no redirects, small answers.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
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

use super::ClientTls;

/// The largest answer, in bytes. A key of an issuer takes some 500.
const MAX_ANSWER: usize = 256 * 1024;

/// An `http` or `https` URL without user and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    is_https: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Text that is no URL; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no URL that can be asked; write one such as https://id.example.com/.well-known/jwks.json")]
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
    /// Whether it is asked over TLS.
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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody is there, or TLS does not come about.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The host's name is none.
    #[error("{0:?} is no name that a certificate can carry")]
    Name(String),
    /// What is there does not speak HTTP/1.1, or goes away.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The answer breaks off or is too large.
    #[error("the answer cannot be read, or has more than {MAX_ANSWER} bytes: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Makes one request, whose `headers` are taken as they are; the answer, whatever its status. Dropped, it is given up.
pub async fn http_request(
    url: &HttpUrl,
    tls: &ClientTls,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Bytes), HttpError> {
    let mut request = Request::builder().method(method).uri(url.path.as_str());
    let agent = HeaderValue::from_static(concat!("bidiway/", env!("CARGO_PKG_VERSION")));
    if let Some(all) = request.headers_mut() {
        *all = headers;
        all.insert(header::USER_AGENT, agent);
    }
    let request = request.header(header::HOST, url.authority.as_str()).body(Full::new(body));
    let request = request.expect("host and path came from a URL");
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(HttpError::Connect)?;
    if !url.is_https {
        return exchange(tcp, request).await;
    }
    let mut config = ClientConfig::clone(&tls.config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = tls.server_name.as_ref().unwrap_or(&url.host);
    let name = ServerName::try_from(name.clone()).map_err(|_| HttpError::Name(name.clone()))?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(HttpError::Connect)?;
    exchange(tls, request).await
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok((status, body.map_err(HttpError::Body)?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_can_be_asked_are_taken() {
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
