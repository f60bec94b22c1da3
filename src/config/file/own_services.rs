//! The proxy's own gRPC services.

use crate::config::{
    node::Node,
    problem::Problems,
    read::{Read, Section, section},
};

section! { "serve"
    /// gRPC services of the proxy's own on the public ports.
    #[derive(Default)]
    struct Serve {
        /// `grpc.health.v1.Health`: whether the proxy takes calls, and whether those of a service that it fronts get
        /// anywhere. Default: false.
        health: Option<bool>,
        /// `grpc.reflection.v1.ServerReflection` and v1alpha, of the services that routes serve. Default: false.
        reflection: Option<bool>,
    }
}
