//! What became of the latest configurations.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tracing::{error, info, warn};

use crate::telemetry::Metrics;

/// What became of the latest configurations: for the log, the metrics and the admin port.
#[derive(Debug)]
pub struct ReloadStatus {
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// As `/config` shows it.
#[derive(Debug, Default, Serialize)]
struct State {
    /// How many configurations the process has gone by.
    generation: u64,
    /// Of the contents of all files, in hexadecimal.
    hash: String,
    /// Since when it holds, in seconds since 1970.
    since: u64,
    /// Keys that have changed and need a restart.
    restart_needed: Vec<&'static str>,
    /// Why the files as they are now cannot be used.
    error: Option<String>,
}

impl ReloadStatus {
    pub(in crate::server) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let status = Self { metrics, state: Mutex::default() };
        status.holds(&mut status.state(), &[0; 32]);
        Arc::new(status)
    }

    /// As JSON.
    pub(in crate::server) fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&*self.state()).expect("the state is numbers and texts");
        text.push('\n');
        text
    }

    /// What the process was started with was made of this.
    pub(super) fn started(&self, hash: &[u8; 32]) {
        let mut state = self.state();
        state.generation = 0;
        self.holds(&mut state, hash);
    }

    /// Another configuration holds.
    pub(super) fn applied(&self, hash: &[u8; 32], restart_needed: Vec<&'static str>) {
        let mut state = self.state();
        self.holds(&mut state, hash);
        self.metrics.config_applied(restart_needed.len());
        info!(generation = state.generation, hash = state.hash, "the changed configuration is in use");
        if !restart_needed.is_empty() {
            let keys = restart_needed.join(", ");
            warn!(keys, "the rest of the changed configuration is in use; these need a restart");
        }
        state.restart_needed = restart_needed;
    }

    /// The files are as they were when what holds now was read.
    pub(super) fn unchanged(&self) {
        let mut state = self.state();
        if state.error.take().is_some() {
            self.metrics.config_restored();
            info!("the configuration is again the one in use");
        }
    }

    /// The files cannot be used. The same failure counts again only if somebody `asked`.
    pub(super) fn failed(&self, text: String, asked: bool) {
        let mut state = self.state();
        let new = state.error.as_ref() != Some(&text);
        if new || asked {
            self.metrics.config_failed();
        }
        if new {
            error!(error = text, "the changed configuration cannot be used; the last good one stays");
            state.error = Some(text);
        }
    }

    fn holds(&self, state: &mut State, hash: &[u8; 32]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        state.generation += 1;
        state.hash = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        state.since = now.as_secs();
        state.error = None;
        self.metrics.config_holds(state.generation, hash, now.as_secs());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
