//! The configuration: YAML, or the command line, to valid settings for every floor. Nobody below sees a YAML key.
//!
//! Reading goes in three steps, and each goes on after an error, so that all errors come at once: `node` turns text
//! into a tree with places, `file` and `read` turn the tree into the file's structs, `build` turns those into settings.

mod build;
mod choice;
mod duration;
mod explanation;
mod file;
mod node;
mod pattern;
mod problem;
mod read;
mod size;

pub use duration::Duration;
pub use explanation::Question;
pub use problem::ConfigError;
pub use size::Size;

use std::{net::SocketAddr, path::Path};

use file::{Admin, File, Listener, Upstream};
use node::Position;
use problem::Problems;
use read::{At, AtLeastOne, Named, Read};

use crate::{
    server::{self, reload::Files},
    telemetry::log,
};

/// A text that is not a value of its kind; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

/// A configuration, whole and valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the server and every floor below it.
    pub settings: server::Settings,
    /// For the log.
    pub log: LogSettings,
    /// How often the file and all that it names are looked at for changes; `None`: only when somebody asks.
    pub reload: Option<std::time::Duration>,
    /// The lines in which the routes of `settings` stand; 0: the file says nothing of them.
    pub route_lines: Vec<u64>,
}

/// The log's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// How lines look.
    pub format: log::Format,
    /// A level, or directives.
    pub filter: String,
    /// The part of the calls that ended with OK that have a line; all others have one.
    pub sample_ok: f64,
}

impl Config {
    /// Reads and checks a file, and the certificates that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_noting(path, &mut Files::default())
    }

    /// The same, and notes each file before it is read or tried.
    pub fn load_noting(path: &Path, files: &mut Files) -> Result<Self, ConfigError> {
        files.note(path);
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::one(Some(name.clone()), Position::default(), format!("cannot be read: {error}"))
        })?;
        Self::parse_noting(&text, &name, path.parent().unwrap_or_else(|| Path::new("")), files)
    }

    /// Checks a configuration's text. `name` is for errors; relative paths start at `base`.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, ConfigError> {
        Self::parse_noting(text, name, base, &mut Files::default())
    }

    fn parse_noting(text: &str, name: &str, base: &Path, files: &mut Files) -> Result<Self, ConfigError> {
        let name = Some(name.to_owned());
        let node = node::parse(text).map_err(|(at, text)| ConfigError::one(name.clone(), at, text))?;
        let mut problems = Problems::default();
        let config =
            File::read(&node, &mut problems).and_then(|file| build::build(file, base, &mut problems, files));
        problems.finish(name, config)
    }

    /// The configuration without a file: everything goes to one upstream.
    pub fn for_upstream(
        url: &str,
        listen: SocketAddr,
        admin: Option<SocketAddr>,
        origins: &[String],
    ) -> Result<Self, ConfigError> {
        let endpoints = given(AtLeastOne(vec![given(url.to_owned())]));
        let upstream = Upstream { endpoints, ..Upstream::default() };
        let file = File {
            listeners: AtLeastOne(vec![Listener {
                address: given(listen),
                tls: None,
                proxy_protocol: None,
                resume: None,
            }]),
            admin: admin.map(|admin| Admin { address: given(admin) }),
            origins: Some(origins.iter().cloned().map(given).collect()),
            upstreams: given(Named(vec![(given("upstream".to_owned()), Some(upstream))])),
            ..File::default()
        };
        let mut problems = Problems::default();
        let config = build::build(file, Path::new(""), &mut problems, &mut Files::default());
        problems.finish(None, config)
    }
}

/// Reads an address to listen on, with advice when it is none.
pub fn listen_address(text: &str) -> Result<SocketAddr, InvalidValue> {
    read::socket_addr(text)
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&file::schema()).expect("a JSON Schema is JSON");
    text.push('\n');
    text
}

/// A value without a place: from the command line.
fn given<T>(value: T) -> At<T> {
    At { at: Position::default(), value }
}
