//! Traces, and where they go.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Builder;
use crate::{
    config::{
        choice::{OtlpWay, Share},
        file::{Otlp, Tracing, Upstream, UpstreamTls},
        read::{At, AtLeastOne, Named},
    },
    server::{Collector, TracingSettings},
    telemetry::TraceSettings,
    upstream::{ClientTls, HttpUrl},
    wire::metadata::may_be_passed,
};

/// Where collectors take traces over HTTP (OTLP specification, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// The part of the calls that have spans.
const SAMPLE: f64 = 0.1;

impl Builder<'_> {
    pub(super) fn tracing(&mut self, given: &Tracing) -> Option<TracingSettings> {
        let Otlp { endpoint, protocol, tls, headers } = &given.otlp;
        let headers = headers.as_ref().map_or_else(HeaderMap::new, |headers| self.headers(&headers.value));
        let collector = match protocol.unwrap_or(OtlpWay::Grpc) {
            OtlpWay::Grpc => {
                let endpoints = At { at: endpoint.at, value: AtLeastOne(vec![endpoint.clone()]) };
                let upstream = Upstream { endpoints, tls: tls.clone(), ..Upstream::default() };
                Collector::Grpc(self.upstream("(tracing)", &upstream, false)?)
            }
            OtlpWay::Http => self.http_collector(endpoint, tls.as_ref())?,
        };
        let sample = given.sample.as_ref().map_or(SAMPLE, |sample| {
            let Share(sample) = sample.value;
            sample
        });
        Some(TracingSettings {
            traces: TraceSettings { sample, trust_parent: given.trust_parent.unwrap_or(true) },
            collector,
            headers,
            service_name: given.service_name.clone().unwrap_or_else(|| "bidiway".into()),
        })
    }

    fn http_collector(&mut self, endpoint: &At<String>, tls: Option<&At<UpstreamTls>>) -> Option<Collector> {
        let base = endpoint.value.trim_end_matches('/');
        let url = if base.ends_with(TRACES) { base.to_owned() } else { format!("{base}{TRACES}") };
        let Ok(url) = url.parse::<HttpUrl>() else {
            let text = format!(
                "{:?} is no URL of a collector; write http://HOST:4318 or https://HOST:4318",
                endpoint.value
            );
            self.problems.add(endpoint.at, text);
            return None;
        };
        if let (Some(tls), false) = (tls, url.is_https()) {
            self.problems.add(tls.at, "`tls` is for an https:// endpoint");
        }
        let tls =
            if url.is_https() { self.client_tls(tls, endpoint.at)? } else { ClientTls::trusting_nobody() };
        Some(Collector::Http(url, tls))
    }

    /// Headers with values that no error and no debug output shows.
    fn headers(&mut self, given: &Named<At<String>>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &given.0 {
            let header = HeaderName::try_from(name.value.as_str()).ok().filter(may_be_passed);
            let Some(header) = header else {
                self.problems.add(name.at, format!("{:?} is no name of metadata", name.value));
                continue;
            };
            let Some(value) = value else { continue };
            match HeaderValue::try_from(value.value.as_str()) {
                Ok(mut content) => {
                    content.set_sensitive(true);
                    headers.insert(header, content);
                }
                Err(_) => {
                    self.problems.add(value.at, "a header's value is printable text without line breaks")
                }
            }
        }
        headers
    }
}
