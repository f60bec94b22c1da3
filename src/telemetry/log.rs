//! The log's format and destination.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::wire::Code;

/// The way to the filter of the log that was set up.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

thread_local! {
    /// How many lines of calls that ended well this thread owes, as a fraction.
    static OWED: Cell<f64> = const { Cell::new(0.0) };
}

/// The part of the calls that ended with OK that have a line; all others always have one.
static OK_SHARE: AtomicU64 = AtomicU64::new(1.0_f64.to_bits());

/// Of the calls that end with OK, this part has a line in the log, evenly: 0 for none, 1 for all, which is the
/// default.
pub fn sample_ok(share: f64) {
    OK_SHARE.store(share.to_bits(), Ordering::Relaxed);
}

/// Whether a call that ended so has a line.
pub(super) fn wants(code: Code) -> bool {
    code != Code::OK || due(f64::from_bits(OK_SHARE.load(Ordering::Relaxed)))
}

fn due(share: f64) -> bool {
    let owed = OWED.get() + share;
    let due = owed >= 1.0;
    OWED.set(if due { owed - 1.0 } else { owed });
    due
}

/// Sets up logging to standard error. `filter` is a level or an `EnvFilter` directive such as `info,bidiway=debug`;
/// calls have the target `call`, so `info,call=off` silences just them.
pub fn init(format: Format, filter: &str) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(parse_filter(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let done = tracing_subscriber::registry().with(filter).with(lines).try_init();
    done.map_err(|e| format!("logging cannot be set up: {e}"))?;
    // Nobody else can have set it: only the first `try_init` of a process succeeds.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Another filter for the log that was set up.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    let Some(handle) = FILTER.get() else { return Ok(()) };
    handle.reload(filter).map_err(|e| format!("the log's filter cannot be changed: {e}"))
}

/// Checks a filter without setting anything up.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|e| {
        format!(
            "{filter:?} is not a log filter: {e}; write a level (error, warn, info, debug, trace, off) \
             or directives such as info,bidiway=debug"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_calls_is_chosen_evenly() {
        let chosen: Vec<_> = (0..12).map(|_| due(0.25)).collect();
        assert_eq!(chosen, [false, false, false, true].repeat(3));
        assert!((0..10).all(|_| due(1.0)) && !(0..10).any(|_| due(0.0)));
    }

    #[test]
    fn a_level_or_directives_are_a_filter() {
        for good in ["info", "warn,call=info", "info,bidiway::server=debug,h2=off"] {
            assert_eq!(check_filter(good), Ok(()));
        }
    }

    #[test]
    fn a_broken_filter_says_what_to_write() {
        let error = check_filter("info,call=loud").unwrap_err();
        assert!(error.contains("\"info,call=loud\" is not a log filter"), "{error}");
        assert!(error.contains("error, warn, info"), "{error}");
    }
}
