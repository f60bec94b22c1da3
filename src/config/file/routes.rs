//! Which upstream serves what.

use crate::{
    config::{
        Duration, Size,
        choice::{Defaults, DialectWord, RouteAuthChoice, Share, UnknownFields, Weight},
        node::Node,
        problem::Problems,
        read::{At, AtLeastOne, Named, Read, Section, section},
    },
    schema::FieldNames,
};

section! { "a route"
    /// Which upstream serves a service or method.
    struct Route {
        /// `chat.v1.Chat` (a service), `chat.v1.Chat/Talk` (a method), `chat.v1.*` (a package) or `*` (everything).
        service: At<String>,
        /// The hosts under which clients must have reached the proxy: `chat.example.com`, or `*.example.com` for every
        /// name below it. Default: any.
        hosts: Option<AtLeastOne<At<String>>>,
        /// What the calls must have in their metadata: "1" (exactly this), "v2.*" (it begins so) or "*" (anything).
        /// Default: nothing.
        metadata: Option<Named<At<String>>>,
        /// The name of an upstream. This or `upstreams`.
        upstream: Option<At<String>>,
        /// Several upstreams with their weights: `{ chat: 95, chat-next: 5 }`. Each call goes to one of them.
        upstreams: Option<At<Named<At<Weight>>>>,
        /// What metrics and logs call the route. Default: its service, hosts and metadata.
        name: Option<At<String>>,
        /// The dialects in which its methods may be called: session, grpc-web, grpc, grpc-websockets, json. Default: all.
        dialects: Option<AtLeastOne<At<DialectWord>>>,
        /// The longest a call may take, and the deadline of calls that have none. Default: no limit.
        timeout: Option<At<Duration>>,
        /// The greatest age of a call: then it ends with UNAVAILABLE, and its client calls again, perhaps elsewhere. It
        /// varies by a tenth. The upstream's holds besides. Default: no limit.
        max_stream_age: Option<At<Duration>>,
        /// The largest message, either way. Default: limits.max_message.
        max_message: Option<At<Size>>,
        /// How long its calls go on while their session has no carrier; 0s: they end with the carrier. Default: as long
        /// as the session.
        resume: Option<At<Duration>>,
        /// Cookies that become metadata: `{ session: x-session }`. Needs a list of `origins` without "*".
        cookies: Option<Named<At<String>>>,
        /// What becomes of the metadata of calls.
        request_metadata: Option<MetadataRules>,
        /// What becomes of the metadata that services answer with.
        response_metadata: Option<MetadataRules>,
        /// How JSON is read and written, where a client speaks JSON.
        json: Option<Json>,
        /// Logs messages, decoded, whatever the dialect of the call. Left out: none.
        log_messages: Option<LogMessages>,
        /// Who may call: `required`, `optional`, `off`, or a mapping. Default: required, where there is `identity`.
        auth: Option<At<RouteAuthChoice>>,
        /// What all clients together may use of the route. Default: no limits.
        limits: Option<RouteLimits>,
    }
}

section! { "metadata rules"
    /// Changes of metadata, in this order. Values of names that end in -bin are base64.
    struct MetadataRules {
        /// Names that are dropped.
        remove: Option<Vec<At<String>>>,
        /// Names that become others: `{ x-old: x-new }`.
        rename: Option<Named<At<String>>>,
        /// Entries in place of others of the name: `{ x-edge: eu }`.
        set: Option<Named<At<String>>>,
        /// Entries besides others of the name.
        add: Option<Named<At<String>>>,
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
        /// Messages that clients send in a second, in all calls together, and as many at once. More wait. Default: no
        /// limit.
        messages_per_second: Option<u32>,
        /// The same of the messages' bytes, 1KiB to 1GiB. Default: no limit.
        bytes_per_second: Option<At<Size>>,
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
