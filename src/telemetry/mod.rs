//! What Bidiway tells its operators: metrics, one log line per call, redaction.

mod call_record;
pub mod log;
mod metrics;

pub use call_record::CallRecord;
pub use metrics::{CallMetrics, Dialect, Metrics};
