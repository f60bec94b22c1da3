//! Traces, and where they go.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Builder;
use crate::{
    config::{
        choice::Share,
        file::{Otlp, Tracing, Upstream},
        read::{At, AtLeastOne, Named},
    },
    server::TracingSettings,
    telemetry::TraceSettings,
    wire::metadata::may_be_passed,
};

/// The part of the calls that have spans.
const SAMPLE: f64 = 0.1;

impl Builder<'_> {
    pub(super) fn tracing(&mut self, given: &Tracing) -> Option<TracingSettings> {
        let Otlp { endpoint, tls, headers } = &given.otlp;
        let headers = headers.as_ref().map_or_else(HeaderMap::new, |headers| self.headers(&headers.value));
        let endpoints = At { at: endpoint.at, value: AtLeastOne(vec![endpoint.clone()]) };
        let upstream = Upstream { endpoints, tls: tls.clone(), ..Upstream::default() };
        let collector = self.upstream("(tracing)", &upstream, false)?;
        let sample = given.sample.as_ref().map_or(SAMPLE, |sample| {
            let Share(sample) = sample.value;
            sample
        });
        Some(TracingSettings {
            traces: TraceSettings { sample, trust_parent: given.trust_parent.unwrap_or(true) },
            collector: Arc::clone(&collector),
            headers,
            service_name: given.service_name.clone().unwrap_or_else(|| "bidiway".into()),
        })
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
