//! The configuration and the certificates in metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    listener: String,
    certificate: String,
}

/// What is counted of the configuration.
#[derive(Debug, Default)]
pub(super) struct ReloadFamilies {
    reloads: Family<ReloadResult, Counter>,
    successful: Gauge,
    timestamp: Gauge,
    generation: Gauge,
    hash: Gauge,
    restart_needed: Gauge,
    certificates: Family<CertificateLabels, Gauge>,
}

impl ReloadFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        for result in ["applied", "failed"] {
            self.reloads.get_or_create_owned(&ReloadResult { result });
        }
        r.register("config_reloads", "Attempts to take a changed configuration over", self.reloads.clone());
        r.register(
            "config_last_reload_successful",
            "Whether the files as they are now are what the process goes by",
            self.successful.clone(),
        );
        r.register(
            "config_last_reload_timestamp_seconds",
            "When the configuration that holds was taken over, in seconds since 1970",
            self.timestamp.clone(),
        );
        r.register(
            "config_generation",
            "How many configurations this process has gone by",
            self.generation.clone(),
        );
        r.register(
            "config_hash",
            "A number made of the contents of all files: the same where the configuration is",
            self.hash.clone(),
        );
        r.register(
            "config_restart_needed",
            "How many keys of the configuration have changed that need a restart",
            self.restart_needed.clone(),
        );
        r.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate expires that is shown to clients, in seconds since 1970",
            self.certificates.clone(),
        );
    }
}

impl Metrics {
    /// A configuration holds from now on (seconds since 1970). `hash`: of its contents; its first 48 bits are shown,
    /// which a floating-point number holds.
    pub fn config_holds(&self, generation: u64, hash: &[u8; 32], now: u64) {
        let c = &self.config;
        let number = hash[..6].iter().fold(0, |number, &byte| number << 8 | i64::from(byte));
        c.successful.set(1);
        c.timestamp.set(now.cast_signed());
        c.generation.set(generation.cast_signed());
        c.hash.set(number);
    }

    /// A changed configuration was taken over; so many of its keys need a restart.
    pub fn config_applied(&self, restart_needed: usize) {
        self.config.reloads.get_or_create_owned(&ReloadResult { result: "applied" }).inc();
        self.config.restart_needed.set(restart_needed as i64);
    }

    /// A changed configuration cannot be used; the last good one goes on.
    pub fn config_failed(&self) {
        self.config.reloads.get_or_create_owned(&ReloadResult { result: "failed" }).inc();
        self.config.successful.set(0);
    }

    /// The files are again what the process goes by.
    pub fn config_restored(&self) {
        self.config.successful.set(1);
    }

    /// The certificates of all ports, in place of those told before: the port, a name for the certificate, and when it
    /// expires (seconds since 1970).
    pub fn certificates(&self, all: impl IntoIterator<Item = (String, String, i64)>) {
        self.config.certificates.clear();
        for (listener, certificate, expiry) in all {
            let labels = CertificateLabels { listener, certificate };
            self.config.certificates.get_or_create_owned(&labels).set(expiry);
        }
    }
}
