//! Traces: one span for each call that is sampled.
//!
//! A call asks for its span where it is admitted and hands it back where its record ends; what happens to spans then is
//! the business of whoever has the [`SpanQueue`], on a thread that carries no calls.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::mpsc;

use crate::wire::{Code, Origin, TraceContext, trace_context::hex};

/// How many spans may wait to be exported; more are dropped, and counted.
const ROOM: usize = 4096;

/// The longest `tracestate` that is passed on, in bytes (W3C Trace Context, section 3.3.1.5).
const STATE_MAX: usize = 512;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Which calls have spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSettings {
    /// The part of the calls that are recorded, from 0 to 1, of those whose client has not decided it.
    pub sample: f64,
    /// Whether clients may decide it, and say which trace a call belongs to.
    pub trust_parent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpanLabels {
    result: &'static str,
}

/// What is counted of spans.
#[derive(Debug, Default)]
pub(super) struct SpanFamilies {
    spans: Family<SpanLabels, Counter>,
}

impl SpanFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("spans", "Spans of calls, by what became of them", self.spans.clone());
    }

    /// A tracer, and what comes out of it.
    pub(super) fn tracer(&self, settings: TraceSettings) -> (Tracer, SpanQueue) {
        let count = |result| self.spans.get_or_create_owned(&SpanLabels { result });
        let (sender, receiver) = mpsc::channel(ROOM);
        let tracer = Tracer { settings, queue: sender, dropped: count("dropped") };
        (tracer, SpanQueue { receiver, exported: count("exported"), failed: count("failed") })
    }
}

/// Begins spans.
#[derive(Clone, Debug)]
pub struct Tracer {
    settings: TraceSettings,
    queue: mpsc::Sender<Span>,
    dropped: Counter,
}

/// The spans that ended.
#[derive(Debug)]
pub struct SpanQueue {
    /// Bounded; closing it ends the export.
    pub receiver: mpsc::Receiver<Span>,
    /// Spans that the collector has taken.
    pub exported: Counter,
    /// Spans that it has not.
    pub failed: Counter,
}

/// A span that ended. It is never given metadata, so none gets out this way.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its own place in the trace.
    pub context: TraceContext,
    /// The client's span, if it told.
    pub parent: Option<[u8; 8]>,
    /// The client's `tracestate`, or nothing.
    pub state: String,
    /// When the call began.
    pub began: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// When headers arrived from upstream, after the begin.
    pub headers: Option<Duration>,
    /// `/package.Service/Method`, cut.
    pub method: Box<str>,
    /// The route's configured name.
    pub route: String,
    /// The upstream's configured name; empty when the call went to none.
    pub upstream: Box<str>,
    /// The dialect's word.
    pub dialect: &'static str,
    /// The session's id for streams of sessions.
    pub session: Option<Arc<str>>,
    /// The client's address.
    pub client: IpAddr,
    /// How it ended.
    pub code: Code,
    /// Who said so.
    pub origin: Origin,
    /// The status message, cut; empty when it ended well.
    pub message: String,
    /// Messages to the service and to the client.
    pub messages: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

/// A call's place in its trace, while it runs.
#[derive(Debug)]
pub(super) struct CallTrace {
    tracer: Tracer,
    context: TraceContext,
    /// Whether the client's headers are as they should be for the service.
    as_it_came: bool,
    parent: Option<[u8; 8]>,
    state: String,
    pub(super) upstream: Box<str>,
    began: SystemTime,
}

impl Tracer {
    /// Reads the client's context, and decides. `None`: the system has no random numbers.
    pub(super) fn begin(&self, metadata: &HeaderMap) -> Option<CallTrace> {
        let parent = if self.settings.trust_parent { parent(metadata) } else { None };
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        let (trace_id, span_id) = random.split_at(16);
        let context = match parent {
            Some(parent) => TraceContext { span_id: span_id.try_into().ok()?, ..parent },
            None => TraceContext {
                trace_id: trace_id.try_into().ok()?,
                span_id: span_id.try_into().ok()?,
                sampled: chosen(trace_id, self.settings.sample),
            },
        };
        // A span that nobody records is no parent for the service's: it sees the client's own context.
        let as_it_came = parent.is_some_and(|parent| !parent.sampled);
        Some(CallTrace {
            tracer: self.clone(),
            context,
            as_it_came,
            parent: parent.map(|parent| parent.span_id),
            state: if parent.is_some() && context.sampled { state(metadata) } else { String::new() },
            upstream: Box::default(),
            began: SystemTime::now(),
        })
    }
}

/// The client's context. More than one header is none (section 3.2).
fn parent(metadata: &HeaderMap) -> Option<TraceContext> {
    let mut values = metadata.get_all(TRACEPARENT).iter();
    let parent = values.next()?;
    values.next().is_none().then(|| TraceContext::parse(parent.as_bytes()))?
}

/// The client's `tracestate`, which is joined if it comes in parts (section 3.3.1).
fn state(metadata: &HeaderMap) -> String {
    let parts = metadata.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok());
    let state = parts.collect::<Vec<_>>().join(",");
    if state.len() <= STATE_MAX { state } else { String::new() }
}

/// Whether a new trace is sampled: the same for everybody who sees its id and has the same share.
fn chosen(trace_id: &[u8], share: f64) -> bool {
    let random =
        trace_id.rchunks(8).next().and_then(|last| last.try_into().ok()).map_or(0, u64::from_be_bytes);
    // 53 bits, which a float holds exactly; the share 1 is above all of them.
    ((random >> 11) as f64) < share * (1u64 << 53) as f64
}

impl CallTrace {
    /// Tells the service its place in the trace.
    pub(super) fn write_to(&self, metadata: &mut HeaderMap) {
        if self.as_it_came {
            return;
        }
        let value = HeaderValue::try_from(self.context.to_header()).expect("digits and dashes are ASCII");
        metadata.insert(TRACEPARENT, value);
        if self.parent.is_none() {
            // It belongs to a context that is not there, or not valid.
            metadata.remove(TRACESTATE);
        }
    }

    /// For the log.
    pub(super) fn id(&self) -> String {
        hex(&self.context.trace_id)
    }

    /// Hands the span over, if the call is sampled; `fill` says what is known of the call.
    pub(super) fn end(self, fill: impl FnOnce(&mut Span)) {
        if !self.context.sampled {
            return;
        }
        let mut span = Span {
            context: self.context,
            parent: self.parent,
            state: self.state,
            began: self.began,
            duration: Duration::ZERO,
            headers: None,
            method: Box::default(),
            route: String::new(),
            upstream: self.upstream,
            dialect: "",
            session: None,
            client: IpAddr::from([0, 0, 0, 0]),
            code: Code::OK,
            origin: Origin::Proxy,
            message: String::new(),
            messages: [0; 2],
            bytes: [0; 2],
        };
        fill(&mut span);
        if self.tracer.queue.try_send(span).is_err() {
            self.tracer.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    const CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let entry =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        entries.iter().map(entry).collect()
    }

    fn tracer(sample: f64) -> Tracer {
        SpanFamilies::default().tracer(TraceSettings { sample, trust_parent: true }).0
    }

    #[test]
    fn the_clients_decision_counts_whatever_the_share() {
        for (sample, flag, sampled) in [(0.0, "1", true), (1.0, "0", false)] {
            let mut metadata = headers(&[("traceparent", &format!("{CLIENT}{flag}")), ("tracestate", "a=b")]);
            let trace = tracer(sample).begin(&metadata).unwrap();
            assert_eq!(trace.context.sampled, sampled);
            assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            trace.write_to(&mut metadata);
            let told = TraceContext::parse(metadata["traceparent"].as_bytes()).unwrap();
            assert_eq!(told.trace_id, trace.context.trace_id);
            let own = told.span_id == trace.context.span_id;
            assert_eq!(own, sampled, "a span that is not recorded is nobody's parent");
            assert_eq!((told.sampled, &metadata["tracestate"]), (sampled, &"a=b".parse().unwrap()));
        }
    }

    #[test]
    fn without_a_valid_context_a_new_trace_begins() {
        let good = format!("{CLIENT}1");
        for entries in [
            &[][..],
            &[("traceparent", "00-1-2-3"), ("tracestate", "a=b")],
            &[("traceparent", &good), ("traceparent", &good), ("tracestate", "a=b")],
        ] {
            let mut metadata = HeaderMap::new();
            for (name, value) in entries {
                metadata.append(*name, value.parse().unwrap());
            }
            let trace = tracer(1.0).begin(&metadata).unwrap();
            assert!(trace.parent.is_none() && trace.context.sampled);
            trace.write_to(&mut metadata);
            assert_eq!(metadata["traceparent"], trace.context.to_header());
            assert!(!metadata.contains_key("tracestate"), "it belonged to the other trace");
        }
    }

    #[test]
    fn a_client_that_is_not_trusted_decides_nothing() {
        let settings = TraceSettings { sample: 0.0, trust_parent: false };
        let (tracer, _queue) = SpanFamilies::default().tracer(settings);
        let mut metadata = headers(&[("traceparent", &format!("{CLIENT}1"))]);
        let trace = tracer.begin(&metadata).unwrap();
        assert!(!trace.context.sampled && trace.parent.is_none());
        trace.write_to(&mut metadata);
        assert!(!metadata["traceparent"].to_str().unwrap().contains("4bf92f35"));
    }

    #[test]
    fn the_share_of_new_traces_is_kept() {
        let ids = (0..10_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let count = |share| ids.clone().filter(|id| chosen(&[[0; 8], *id].concat(), share)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((900..1100).contains(&count(0.1)), "{}", count(0.1));
        assert!(chosen(&[0xff; 16], 1.0));
    }

    #[test]
    fn spans_beyond_the_room_are_dropped_and_counted() {
        let metrics = Metrics::new();
        let mut queue = metrics.trace(TraceSettings { sample: 1.0, trust_parent: true });
        for _ in 0..ROOM + 3 {
            metrics.tracer().unwrap().begin(&HeaderMap::new()).unwrap().end(|_| {});
        }
        assert!(
            metrics.encode().contains("bidiway_spans_total{result=\"dropped\"} 3"),
            "{}",
            metrics.encode()
        );
        assert!(queue.receiver.try_recv().is_ok());
    }
}
