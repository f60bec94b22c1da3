//! Notices that the configuration's files have changed.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use super::{Files, Reloader};
use crate::server::Settings;

/// What became of an attempt to read the configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The settings; or what is wrong, for a person to read.
    pub settings: Result<Settings, String>,
    /// What was read, and what could not be.
    pub files: Files,
    /// How often the files are looked at from now on; `None`: only when somebody asks. Ignored when there are no
    /// settings.
    pub every: Option<Duration>,
    /// Keys that have changed, that are not the server's, and need a restart.
    pub restart_needed: Vec<&'static str>,
}

/// Keeps a running server at what its configuration says.
pub struct Watcher<L> {
    reloader: Reloader,
    load: Option<L>,
    /// Told when somebody wants the configuration read anew: a SIGHUP.
    asked: Arc<Notify>,
    /// As they were when they were read, and those that a failed attempt would have read as well.
    files: Files,
    /// Of the files of the configuration that holds.
    digest: [u8; 32],
    every: Option<Duration>,
}

impl<L> fmt::Debug for Watcher<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("files", &self.files)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl<L: FnMut() -> Loaded + Send + 'static> Watcher<L> {
    /// `files` is what the server's own settings were made from, `load` reads them anew, and may block.
    pub fn new(reloader: Reloader, files: Files, every: Option<Duration>, load: L) -> Self {
        let digest = files.digest();
        reloader.status().started(&digest);
        Self { reloader, load: Some(load), asked: Arc::default(), files, digest, every }
    }

    /// Tell it to have the files read at once, changed or not.
    pub fn asked(&self) -> Arc<Notify> {
        self.asked.clone()
    }

    /// Goes on until the server stops.
    pub async fn run(mut self) {
        loop {
            let asked = self.change().await;
            if !self.reload(asked).await {
                return;
            }
        }
    }

    /// Completes when there is something to read; says whether somebody asked.
    async fn change(&self) -> bool {
        let Some(every) = self.every else {
            self.asked.notified().await;
            return true;
        };
        let mut before: Option<Files> = None;
        loop {
            tokio::select! {
                () = self.asked.notified() => return true,
                () = sleep(every) => {}
            }
            let files = self.files.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || files.look()).await else { continue };
            if !self.files.differ(&now) {
                before = None;
                continue;
            }
            // Somebody may be in the middle of writing: what rests from one look to the next is done.
            if before.is_some_and(|before| before.rest(&now)) || self.files.rest(&now) {
                return false;
            }
            before = Some(now);
        }
    }

    /// Reads all files. `false`: there is no server any more.
    async fn reload(&mut self, asked: bool) -> bool {
        let Some(mut load) = self.load.take() else { return false };
        let work = tokio::task::spawn_blocking(move || {
            let loaded = load();
            let digest = loaded.files.digest();
            (load, loaded, digest)
        });
        let Ok((load, loaded, digest)) = work.await else {
            warn!("reading the configuration failed in a way that it should not; it is not read again");
            return false;
        };
        self.load = Some(load);
        let Loaded { settings, files, every, restart_needed } = loaded;
        match settings {
            Ok(settings) => {
                let Some(mut applied) = self.reloader.apply(settings).await else { return false };
                applied.restart_needed.extend(restart_needed);
                let status = self.reloader.status();
                if digest != self.digest || asked {
                    status.applied(&digest, applied.restart_needed);
                } else {
                    status.unchanged();
                }
                (self.files, self.digest, self.every) = (files, digest, every);
            }
            Err(error) => {
                self.reloader.status().failed(error, asked);
                // Those of the last good one too: one of them, changed back, may be all that is missing.
                let last_good = self.files.look();
                self.files = files;
                self.files.add(&last_good);
            }
        }
        true
    }
}
