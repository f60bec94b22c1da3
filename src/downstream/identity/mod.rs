//! Who calls: tokens (JWT), keys of machines, and a service that is asked. One step of admission, the same in every
//! dialect.
//!
//! `token`, `claims`, `algorithm`, `key` and `key_set` decide what is believed, without I/O and without a clock;
//! `credentials` finds tokens; `cache` remembers those that were verified; `key_store` and `fetch` keep issuers' keys
//! fresh; `authority` has all of these, for all workers. `gate` is what a route's calls pass, `lease` how long they may
//! go on, `ext_authz` the service.

mod algorithm;
mod api_keys;
mod authority;
mod cache;
mod claims;
mod credentials;
mod ext_authz;
mod fetch;
mod gate;
mod key;
mod key_set;
mod key_store;
mod lease;
mod settings;
#[cfg(test)]
mod tests;
mod token;
#[cfg(test)]
#[path = "../../../tests/it/support/tokens.rs"]
mod tokens;

pub use algorithm::Algorithm;
pub use api_keys::{ApiKey, InvalidApiKey};
pub use authority::{Authority, Clock};
pub(crate) use credentials::Shown;
pub use fetch::JwksUrl;
pub(crate) use gate::{Gate, Passed, check, remove_claimed};
pub use key_set::{KeySet, KeySetError, LEAST_SECRET};
pub(crate) use lease::SessionIdentity;
pub use settings::{
    ApiKeySettings, Auth, ExtAuthzSettings, KeySource, Mode, ProviderSettings, Rule, Settings, TokenSource,
};
pub(crate) use token::{Token, TokenError, Verified};

// Two libraries with one interface, as rustls uses them.
#[cfg(feature = "aws-lc")]
use aws_lc_rs as crypto;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring as crypto;

/// Envoy's authorization service, generated from `proto/envoy/service/auth/v3/authorization.proto`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the proto file documents it"
)]
pub mod ext_authz_v3 {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.auth.v3.rs"));
}
