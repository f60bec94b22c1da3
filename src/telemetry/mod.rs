//! What Bidiway tells its operators: metrics, one log line and perhaps one span per call, redaction.
//!
//! Redaction is by construction: a [`CallRecord`] is never given metadata but a [`ClientNames`]'s few fields, so no token can
//! reach a log line, a span or a label. Labels hold configured names and fixed words only, so their number is
//! bounded. The one exception are methods, once a service has answered them, and at most 1,000.

mod backpressure;
mod call_metrics;
mod call_record;
mod call_times;
mod carrier_count;
mod identity_metrics;
mod limit_metrics;
pub mod log;
mod method_metrics;
mod metrics;
pub mod otlp;
mod process_metrics;
mod reload_metrics;
mod roster_metrics;
mod schema_metrics;
mod tracer;
mod trip;
mod upstream_calls;
mod upstream_metrics;

pub use backpressure::{Backpressure, Wait, WorkerClock, next_moment};
pub use call_metrics::CallMetrics;
pub use call_record::{CallEnd, CallGuard, CallRecord, ClientNames};
pub use carrier_count::{CarrierCount, CarrierKind};
pub use identity_metrics::IdentityMetrics;
pub use limit_metrics::LimitMetrics;
pub use metrics::{Dialect, Metrics};
pub use roster_metrics::{RosterMetrics, Standings};
pub use schema_metrics::SchemaMetrics;
pub use tracer::{Span, SpanQueue, TraceSettings, Tracer};
pub use trip::{Legs, Trip};
pub use upstream_calls::{Counted, NoRetry, Retry, UpstreamCallMetrics};
pub use upstream_metrics::UpstreamMetrics;
