//! The log's format and destination.

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Sets up logging to standard error. `filter` is a level or an `EnvFilter` directive such as `info,bidiway=debug`.
pub fn init(_format: Format, _filter: &str) -> Result<(), String> {
    todo!()
}
