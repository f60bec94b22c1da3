//! What cannot change while the process runs.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::server::{ListenerSettings, Settings};

/// Puts what the process was started with into settings that it shall go on with, and names what differs: by the keys
/// of the configuration, for a person to read. What can change is left alone.
pub(super) fn keep(running: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut differ = Vec::new();
    let mut fix = |key, same: bool| {
        if !same {
            differ.push(key);
        }
    };

    let listeners = matched(&running.listeners, std::mem::take(&mut new.listeners));
    fix("listeners (which there are, and their addresses)", listeners.1);
    new.listeners = listeners.0;
    fix("admin", running.admin == new.admin);
    new.admin = running.admin;
    fix("workers", running.workers == new.workers);
    new.workers = running.workers;
    fix("tracing", running.tracing == new.tracing);
    new.tracing.clone_from(&running.tracing);
    fix("drain", running.drain == new.drain);
    new.drain = running.drain;

    let (before, now) = (&running.downstream, Arc::make_mut(&mut new.downstream));
    fix("instance", before.instance == now.instance);
    now.instance.clone_from(&before.instance);
    fix("overload", before.limits.overload == now.limits.overload);
    now.limits.overload = before.limits.overload;
    match (&before.peers, &mut now.peers) {
        (None, None) => {}
        (Some(before), Some(now)) => {
            fix("session.peers.listen", before.listen == now.listen);
            now.listen = before.listen;
        }
        (before, now) => {
            fix("session.peers (whether there is the port)", false);
            now.clone_from(before);
        }
    }
    differ
}

/// The listeners that there are, each with the new settings of its address if there are any; and whether they are the
/// same ones. Several may have the same address: port 0.
fn matched(running: &[ListenerSettings], new: Vec<ListenerSettings>) -> (Vec<ListenerSettings>, bool) {
    let count = new.len();
    let mut by_address: HashMap<SocketAddr, Vec<ListenerSettings>> = HashMap::new();
    // The last first: they are taken from the end.
    for listener in new.into_iter().rev() {
        by_address.entry(listener.address).or_default().push(listener);
    }
    let mut same = count == running.len();
    let listeners = running.iter().map(|listener| {
        by_address.get_mut(&listener.address).and_then(Vec::pop).unwrap_or_else(|| {
            same = false;
            listener.clone()
        })
    });
    (listeners.collect(), same)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::{
        downstream,
        server::{Collector, TracingSettings},
        telemetry::TraceSettings,
        upstream::{self, ClientTls},
    };

    fn listening(ports: &[u16]) -> Settings {
        let listener = |&port| ListenerSettings::new(SocketAddr::from(([127, 0, 0, 1], port)), None);
        Settings::new(ports.iter().map(listener).collect())
    }

    fn ports(settings: &Settings) -> Vec<u16> {
        settings.listeners.iter().map(|listener| listener.address.port()).collect()
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_named_and_stays() {
        let running = listening(&[1]);
        let mut new = listening(&[1]);
        new.max_connections = 7;
        assert!(keep(&running, &mut new).is_empty());
        assert_eq!(new.max_connections, 7);

        let mut new = listening(&[1]);
        let collector = vec!["http://127.0.0.1:4317".parse().unwrap()];
        let collector = upstream::Settings::new("tracing", collector, ClientTls::trusting_nobody());
        new.tracing = Some(TracingSettings {
            traces: TraceSettings { sample: 1.0, trust_parent: false },
            collector: Collector::Grpc(Arc::new(collector)),
            headers: HeaderMap::new(),
            service_name: "bidiway".to_owned(),
        });
        assert_eq!(keep(&running, &mut new), ["tracing"], "named once");
        assert_eq!(new.tracing, None);

        let mut new = listening(&[1]);
        new.workers = 9;
        new.admin = Some(SocketAddr::from(([127, 0, 0, 1], 9901)));
        new.drain = Duration::from_secs(1).into();
        let instance = Some("b".to_owned());
        new.downstream =
            Arc::new(downstream::Settings { instance, schema_endpoint: true, ..Default::default() });
        assert_eq!(keep(&running, &mut new), ["admin", "workers", "drain", "instance"]);
        assert_eq!((new.workers, new.admin, new.drain), (running.workers, None, running.drain));
        assert_eq!(new.downstream.instance, None);
        assert!(new.downstream.schema_endpoint, "the rest of it holds");
    }

    #[test]
    fn listeners_are_known_by_their_addresses_in_whatever_order_they_stand() {
        let running = listening(&[1, 2, 0, 0]);
        let mut new = listening(&[0, 2, 1, 0]);
        assert!(keep(&running, &mut new).is_empty());
        assert_eq!(ports(&new), [1, 2, 0, 0]);

        for changed in [&[1, 2, 0][..], &[1, 2, 0, 0, 3], &[1, 3, 0, 0]] {
            let mut new = listening(changed);
            assert_eq!(keep(&running, &mut new).len(), 1, "{changed:?}");
            assert_eq!(ports(&new), [1, 2, 0, 0]);
        }
    }
}
