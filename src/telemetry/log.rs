//! The log's format and destination.

use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Sets up logging to standard error. `filter` is a level or an `EnvFilter` directive such as `info,bidiway=debug`;
/// calls have the target `call`, so `info,call=off` silences just them.
pub fn init(format: Format, filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        Format::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
    };
    done.map_err(|e| format!("logging cannot be set up: {e}"))
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
