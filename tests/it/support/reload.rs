//! A Bidiway that goes by files, which a test changes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bidiway::{
    config::Config,
    server::{
        Server,
        reload::{Files, Loaded, Watcher},
    },
    telemetry::Metrics,
};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, oneshot};

use super::within;

/// A folder of the test's own; gone at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bidiway-reload-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and moves it to its place.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// A new certificate for a name in NAME.pem and NAME.key.
    pub(crate) fn certificate(&self, file: &str, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
        certificate.der().clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// It runs.
pub(crate) struct Live {
    /// Of the listeners, in their order.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) metrics: Arc<Metrics>,
    /// As SIGHUP does.
    pub(crate) asked: Arc<Notify>,
    _shutdown: oneshot::Sender<()>,
}

fn load(file: &Path) -> Loaded {
    let mut files = Files::default();
    let config = Config::load_noting(file, &mut files);
    let every = config.as_ref().ok().and_then(|config| config.reload);
    let settings = config.map(|config| config.settings).map_err(|error| error.to_string());
    Loaded { settings, files, every, restart_needed: Vec::new() }
}

impl Live {
    pub(crate) fn start(file: PathBuf) -> Self {
        let Loaded { settings, files, every, .. } = load(&file);
        let server = Server::bind(settings.unwrap()).unwrap();
        let watcher = Watcher::new(server.reloader(), files, every, move || load(&file));
        let (addresses, admin, metrics) = (server.addresses(), server.admin_address(), server.metrics());
        let asked = watcher.asked();
        let (shutdown, stop) = oneshot::channel::<()>();
        tokio::spawn(watcher.run());
        tokio::spawn(server.serve(async {
            let _ = stop.await;
        }));
        Self { addresses, admin, metrics, asked, _shutdown: shutdown }
    }

    /// A metric's value; 0 if there is none.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(crate) async fn shows(&self, name: &str, value: u64) {
        let seen = async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), seen).await.is_err() {
            panic!("{name} is {} and not {value}", self.metric(name));
        }
    }

    /// Waits until so many configurations have held.
    pub(crate) async fn generation(&self, number: u64) {
        within(60, self.shows("bidiway_config_generation", number)).await;
    }
}
