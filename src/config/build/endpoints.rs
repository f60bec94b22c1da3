//! Which of an upstream's endpoints gets a call, and how they are known to serve.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;

use super::Builder;
use crate::{
    config::{
        Duration,
        file::{Balancing, Ejecting, Upstream, UpstreamDns, UpstreamEjection, UpstreamHash, UpstreamHealth},
        read::At,
    },
    upstream::{self, Balance, DnsSettings, EjectionSettings, Endpoint, HashKey, HealthSettings},
};

/// Where name servers listen.
const DNS_PORT: u16 = 53;

impl Builder<'_> {
    /// `cookies`: whether cookies reach the metadata.
    pub(super) fn endpoints(&mut self, settings: &mut upstream::Settings, given: &Upstream, cookies: bool) {
        match &given.balance {
            Some(At { value: Balancing::Word(balance), .. }) => settings.balance = balance.clone(),
            Some(At { value: Balancing::Hash(hash), .. }) => {
                if let Some(key) = self.hash_key(hash, cookies) {
                    settings.balance = Balance::Hash(key);
                }
            }
            None => {}
        }
        if let Some(dns) = &given.dns {
            let is_name = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Dns { .. });
            let all_read = settings.endpoints.len() == given.endpoints.value.0.len();
            if all_read && !settings.endpoints.iter().any(is_name) {
                let text = "`dns` is for dns+http:// and dns+https:// endpoints, and there is none";
                self.problems.add(dns.at, text);
            }
            self.dns(&mut settings.dns, &dns.value);
        }
        settings.health = given.health.as_ref().map(|health| self.health(&health.value));
        if let Some(At { value: Ejecting(ejection), .. }) = &given.ejection {
            settings.ejection = ejection.as_ref().map(|ejection| self.ejection(ejection));
        }
        if let Some(Duration(ramp)) = given.ramp {
            settings.ramp = ramp;
        }
    }

    fn hash_key(&mut self, given: &At<UpstreamHash>, cookies: bool) -> Option<HashKey> {
        match (&given.value.header, &given.value.cookie) {
            (Some(name), None) => match HeaderName::try_from(&name.value) {
                Ok(name) => Some(HashKey::Header(name)),
                Err(_) => {
                    self.problems.add(name.at, format!("{:?} is no name of metadata", name.value));
                    None
                }
            },
            (None, Some(name)) => {
                if !cookies {
                    let text = "cookies do not reach the metadata of calls; add cookie to `upgrade_headers`";
                    self.problems.add(name.at, text);
                }
                if name.value.contains(['=', ';', ' ']) {
                    self.problems.add(name.at, format!("{:?} is no name of a cookie", name.value));
                }
                Some(HashKey::Cookie(name.value.clone()))
            }
            _ => {
                self.problems.add(given.at, "give one of `header` and `cookie`");
                None
            }
        }
    }

    fn dns(&mut self, dns: &mut DnsSettings, given: &UpstreamDns) {
        self.time(&mut dns.interval, given.interval.as_ref());
        for At { at, value } in given.servers.iter().flat_map(|servers| &servers.0) {
            let address = value.parse::<SocketAddr>();
            match address.or_else(|_| value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT))) {
                Ok(address) => dns.servers.push(address),
                Err(_) => {
                    let text = format!(
                        "{value:?} is not the address of a name server; write IP or IP:PORT, such as 10.0.0.2 or \
                         [::1]:5353"
                    );
                    self.problems.add(*at, text);
                }
            }
        }
    }

    fn health(&mut self, given: &UpstreamHealth) -> HealthSettings {
        let mut health = HealthSettings::default();
        health.service = given.service.as_ref().map_or(health.service, |service| service.value.clone());
        self.time(&mut health.interval, given.interval.as_ref());
        self.time(&mut health.timeout, given.timeout.as_ref());
        health.unhealthy = given.unhealthy.unwrap_or(health.unhealthy);
        health.healthy = given.healthy.unwrap_or(health.healthy);
        health
    }

    fn ejection(&mut self, given: &UpstreamEjection) -> EjectionSettings {
        let mut ejection = EjectionSettings::default();
        ejection.failures = given.failures.unwrap_or(ejection.failures);
        self.time(&mut ejection.time, given.time.as_ref());
        if let Some(At { at, value }) = given.max_percent {
            if value > 100 {
                self.problems.add(at, "more than 100 percent are not possible; write 1 to 100");
            }
            ejection.max_percent = value;
        }
        ejection
    }
}
