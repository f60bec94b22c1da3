//! Which upstream serves what.

use crate::{
    config::{
        Duration, Size,
        choice::{Defaults, Share, UnknownFields},
        node::Node,
        problem::Problems,
        read::{At, Read, Section, section},
    },
    schema::FieldNames,
};

section! { "a route"
    /// Which upstream serves a service or method.
    struct Route {
        /// `chat.v1.Chat` (a service), `chat.v1.Chat/Talk` (a method), `chat.v1.*` (a package) or `*` (everything).
        service: At<String>,
        /// The name of an upstream.
        upstream: At<String>,
        /// The longest a call may take, and the deadline of calls that have none. Default: no limit.
        timeout: Option<At<Duration>>,
        /// The largest message, either way. Default: limits.max_message.
        max_message: Option<At<Size>>,
        /// How JSON is read and written, where a client speaks JSON.
        json: Option<Json>,
        /// Logs messages, decoded, whatever the dialect of the call. Left out: none.
        log_messages: Option<LogMessages>,
        /// What all clients together may use of the route. Default: no limits.
        limits: Option<RouteLimits>,
    }
}

section! { "a route's json"
    /// How JSON is read and written.
    struct Json {
        /// What becomes of fields and enum values that the schema does not have: "reject" or "ignore". Default: reject.
        unknown_fields: Option<UnknownFields>,
        /// Whether fields with their default value are written: "omit" or "write". Default: omit.
        defaults: Option<Defaults>,
        /// The names that are written: "camel" (fieldName) or "original" (field_name). Both are read. Default: camel.
        field_names: Option<FieldNames>,
    }
}

section! { "a route's limits"
    /// What all clients together may use of a route, in this process.
    struct RouteLimits {
        /// Calls that begin in a second, and as many at once. Default: no limit.
        calls_per_second: Option<u32>,
        /// Calls that run. Default: no limit.
        concurrent_calls: Option<u32>,
    }
}

section! { "a route's log_messages"
    /// Which messages are logged, and how: for debugging. Services' data ends up in the log.
    struct LogMessages {
        /// The part of the route's calls whose messages are logged: 1 for all, 0.01 for one in a hundred.
        sample: At<Share>,
        /// What is masked besides passwords, secrets, tokens and the like: fields and metadata with one of these words
        /// in their names.
        redact: Option<Vec<At<String>>>,
        /// The most of a message that is logged. Default: 4KiB.
        max_bytes: Option<At<Size>>,
    }
}
