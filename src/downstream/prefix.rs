//! What a path-based proxy or ingress in front leaves before our paths.

use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};

/// Takes `prefix` (`/api`) off the path of a request, if it is there. Both are served, with it and without: some proxies
/// take it off by themselves.
pub(crate) fn strip(prefix: &str, uri: &mut Uri) {
    let Some(rest) = uri.path_and_query().and_then(|path| path.as_str().strip_prefix(prefix)) else { return };
    let rest = match rest.bytes().next() {
        Some(b'/') => Bytes::copy_from_slice(rest.as_bytes()),
        None | Some(b'?') => [b"/", rest.as_bytes()].concat().into(),
        Some(_) => return,
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(rest).expect("the end of a path is a path"));
    *uri = Uri::from_parts(parts).expect("the other parts are as they were");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(uri: &'static str) -> String {
        let mut uri = Uri::from_static(uri);
        strip("/api/v1", &mut uri);
        uri.to_string()
    }

    #[test]
    fn the_prefix_is_taken_off_whole_segments_and_nothing_else_changes() {
        assert_eq!(stripped("/api/v1/chat.Chat/Talk?x=/api/v1/"), "/chat.Chat/Talk?x=/api/v1/");
        assert_eq!(stripped("https://h:1/api/v1/bidiway/session"), "https://h:1/bidiway/session");
        assert_eq!(stripped("/api/v1"), "/");
        assert_eq!(stripped("/api/v1?q"), "/?q");
        assert_eq!(stripped("/api/v1/api/v1/x"), "/api/v1/x", "once");
        for other in ["/", "/api/v11/x", "/API/v1/x", "/x/api/v1/", "h:1", "*"] {
            assert_eq!(stripped(other), other);
        }
    }
}
