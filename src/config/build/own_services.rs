//! The proxy's own gRPC services.

use super::Builder;
use crate::{
    config::{
        file::{Route, Serve},
        read::At,
    },
    downstream::OwnServices,
};

impl Builder<'_> {
    /// A service is served by the proxy or by an upstream, not by both.
    pub(super) fn own_services(&mut self, given: Option<&Serve>, routes: &[At<Route>]) -> OwnServices {
        let Some(given) = given else { return OwnServices::default() };
        let own = OwnServices {
            health: given.health.unwrap_or_default(),
            reflection: given.reflection.unwrap_or_default(),
        };
        for route in routes {
            let service = route.value.service.value.split('/').next().unwrap_or_default();
            if own.names().any(|name| name == service) {
                let text =
                    format!("{service} is served by the proxy itself (`serve`); remove one of the two");
                self.problems.add(route.value.service.at, text);
            }
        }
        own
    }
}
