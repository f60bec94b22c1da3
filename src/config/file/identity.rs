//! Who calls.

use std::path::PathBuf;

use crate::config::{
    Duration,
    choice::{AlgorithmName, OnFailure, RouteMode, TokenPlace},
    node::Node,
    problem::Problems,
    read::{At, AtLeastOne, Named, Read, Section, section},
};

section! { "identity"
    /// Who calls. With it every route asks for a valid token or API key, unless its `auth` says otherwise.
    struct Identity {
        /// Where a call's token is looked for, in this order: `authorization`, `header: NAME`, `cookie: NAME`,
        /// `subprotocol: PREFIX`. Default: [authorization].
        tokens: Option<AtLeastOne<At<TokenPlace>>>,
        /// Whose tokens (JWT) are believed, by a name of your choice.
        jwt: Option<At<Named<Jwt>>>,
        /// Whether services get the token. Default: true.
        forward_token: Option<bool>,
        /// Keys of machines.
        api_keys: Option<At<ApiKeys>>,
        /// A service that is asked about each call.
        ext_authz: Option<At<ExtAuthz>>,
        /// How many verified tokens are remembered. Default: 10000.
        cache: Option<u32>,
    }
}

section! { "a jwt provider"
    /// An issuer whose tokens are believed.
    struct Jwt {
        /// What its tokens say in `iss`, to the letter.
        issuer: At<String>,
        /// One of these must be in a token's `aud`. Default: none; then only tokens without `aud` are taken.
        audiences: Option<AtLeastOne<String>>,
        /// What its tokens may be signed with. Default: with `jwks` all asymmetric ones that are known, with
        /// `secret_file` HS256, HS384 and HS512.
        algorithms: Option<AtLeastOne<At<AlgorithmName>>>,
        /// Its public keys. This or `secret_file`.
        jwks: Option<At<Jwks>>,
        /// A file with the secret that it signs with, of at least 32 bytes; a line break at its end is none of it.
        secret_file: Option<At<PathBuf>>,
        /// How far the clocks may differ. Default: 30s.
        leeway: Option<Duration>,
        /// What services learn: the claim (or its path, with points) and the name of the metadata. Clients cannot send
        /// metadata of these names.
        claims: Option<Named<At<String>>>,
    }
}

section! { "jwks"
    /// A JSON Web Key Set: one of `file` and `url`.
    struct Jwks {
        /// A file. It is looked at again from time to time.
        file: Option<At<PathBuf>>,
        /// An `https` URL, or an `http` one where nobody is on the way. Redirects are not followed.
        url: Option<At<String>>,
        /// How often it is looked at. Default: 5m.
        refresh: Option<At<Duration>>,
        /// How long fetching may take. Default: 5s.
        timeout: Option<At<Duration>>,
        /// CA certificates (PEM file) to trust instead of the operating system's.
        ca: Option<At<PathBuf>>,
    }
}

section! { "api_keys"
    /// Keys of machines, by their hashes: one of `file` and `keys`.
    struct ApiKeys {
        /// The metadata that has the key. Default: x-api-key.
        header: Option<At<String>>,
        /// A file: on each line a name, a space and the SHA-256 of the key in hexadecimal; `#` begins a comment.
        file: Option<At<PathBuf>>,
        /// The same here.
        keys: Option<AtLeastOne<At<ApiKey>>>,
        /// The metadata in which services learn the key's name. Default: none.
        name_header: Option<At<String>>,
        /// Whether services get the key itself. Default: false.
        forward: Option<bool>,
    }
}

section! { "an API key"
    /// An API key.
    struct ApiKey {
        /// Whose it is.
        name: String,
        /// Its SHA-256 in hexadecimal: `printf %s "$KEY" | sha256sum`.
        sha256: String,
    }
}

section! { "ext_authz"
    /// A service that is asked about each call: Envoy's `envoy.service.auth.v3.Authorization`.
    struct ExtAuthz {
        /// The name of its upstream.
        upstream: At<String>,
        /// How long it may take. Default: 1s.
        timeout: Option<At<Duration>>,
        /// What becomes of calls when it does not answer. Default: deny.
        on_failure: Option<OnFailure>,
        /// What it is told of a call's metadata. Default: everything.
        headers: Option<Vec<At<String>>>,
    }
}

section! { "a route's auth"
    /// Who may call a route.
    struct RouteAuth {
        /// `required`: who has a valid token or API key; `optional`: also who has none; `off`: everybody, and nothing is
        /// looked at. Default: required.
        mode: Option<RouteMode>,
        /// Whose tokens are good here, by their names in `identity.jwt`. Default: all.
        jwt: Option<Vec<At<String>>>,
        /// Whether API keys are good here. Default: true, where there are any.
        api_keys: Option<At<bool>>,
        /// Claims that a token must have, each with all of these values: `{ scope: [read, write] }`.
        require: Option<At<Named<AtLeastOne<String>>>>,
        /// Whether the authorization service is asked. Default: true, where there is one.
        ext_authz: Option<At<bool>>,
    }
}
