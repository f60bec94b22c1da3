//! Another configuration while the process runs.
//!
//! `watcher` notices that a file has changed, loads all of them anew and, if they are valid, gives the settings to the
//! `Reloader`. That hands them to the workers, each of which builds what it needs of them and puts it in the place of
//! what it had (`server::worker`, `downstream::Plan`). Nothing is taken away from what runs: calls keep their routes and
//! upstream connections, sessions and sockets their settings, connections their TLS.

mod files;
mod fixed;
mod reloader;
mod status;
mod watcher;

pub use files::Files;
pub use reloader::{Applied, Reloader};
pub use status::ReloadStatus;
pub use watcher::{Loaded, Watcher};

pub(super) use reloader::{Order, Places, Running};

use std::{collections::HashMap, sync::Arc};

use tokio::sync::oneshot;

use super::{Rosters, Settings};
use crate::schema::Schema;

/// A configuration as the workers get it.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) settings: Settings,
    /// By the upstream's name.
    pub(super) rosters: Rosters,
    /// By the upstream's name.
    pub(super) schemas: Arc<HashMap<String, Schema>>,
}

/// What a worker is told.
#[derive(Debug)]
pub(super) struct News {
    pub(super) generation: Arc<Generation>,
    /// To be told when the worker goes by it.
    pub(super) done: oneshot::Sender<()>,
}
