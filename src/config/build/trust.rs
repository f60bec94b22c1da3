//! Whom to believe: proxies before this one, and the names that requests are for.

use super::Builder;
use crate::{
    config::{file::Listener, read::At},
    downstream::{ClientHeader, Hosts, Network, TrustedProxies},
};

impl Builder<'_> {
    pub(super) fn trusted_proxies(
        &mut self,
        entries: Option<&[At<String>]>,
        header: Option<&At<ClientHeader>>,
        listeners: &[Listener],
    ) -> TrustedProxies {
        if entries.is_none_or(<[_]>::is_empty) {
            for listener in listeners {
                if let Some(At { at, value: true }) = listener.proxy_protocol {
                    let text = "`proxy_protocol` needs `trusted_proxies`, the networks of the proxies that send it; \
                                whoever else reaches this port could write any address";
                    self.problems.add(at, text);
                }
            }
            if let Some(At { at, .. }) = header {
                let text = "`client_header` needs `trusted_proxies`, the networks of the proxies that write it; it is \
                            believed from nobody else";
                self.problems.add(*at, text);
            }
        }
        let networks = entries.into_iter().flatten().filter_map(|entry| {
            let parsed = entry.value.parse::<Network>();
            parsed.map_err(|error| self.problems.add(entry.at, error.to_string())).ok()
        });
        TrustedProxies::new(networks.collect())
            .with_header(header.map_or_else(Default::default, |it| it.value))
    }

    pub(super) fn own_hosts(&mut self, entries: Option<&[At<String>]>) -> Hosts {
        let mut hosts = Hosts::default();
        for At { at, value } in entries.into_iter().flatten() {
            if let Err(why) = hosts.add(value) {
                let text = format!(
                    "{value:?} is no host: {why}; write edge.example.com, edge.example.com:8443 or *.example.com"
                );
                self.problems.add(*at, text);
            }
        }
        hosts
    }
}
