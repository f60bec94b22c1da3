//! What the tests share.

pub(crate) mod calls;
pub(crate) mod carrier;
pub(crate) mod edge;
pub(crate) mod grpc_websocket;
pub(crate) mod http;
pub(crate) mod http_carrier;
pub(crate) mod identity;
pub(crate) mod json;
pub(crate) mod middlebox;
pub(crate) mod names;
pub(crate) mod peers;
pub(crate) mod raw;
pub(crate) mod reflection;
pub(crate) mod reload;
pub(crate) mod replicas;
pub(crate) mod socket;
pub(crate) mod tokens;
pub(crate) mod upstream;

use std::{future::Future, time::Duration};

/// Fails the test instead of letting it hang.
pub(crate) async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what)
        .await
        .unwrap_or_else(|_| panic!("nothing happened within {seconds} s"))
}
