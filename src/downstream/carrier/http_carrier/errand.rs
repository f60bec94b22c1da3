//! What is asked of an HTTP carrier, here or in the instance that has it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::ORIGIN, request::Parts};
use prost::Message as _;

use crate::{
    downstream::{
        ConnInfo,
        principal::{fingerprint, origin_of, relayed_fingerprint, write_fingerprint},
    },
    wire::{
        http_carrier::leading_carrier,
        v1::{HttpPoll, HttpUp},
    },
};

/// A request of an HTTP carrier that is there already.
#[derive(Clone, Debug)]
pub(in crate::downstream::carrier) struct Errand {
    pub(in crate::downstream::carrier) kind: ErrandKind,
    /// Who asks.
    pub(in crate::downstream::carrier) owner: Owner,
    /// It holds the carrier's name: not for logs.
    pub(in crate::downstream::carrier) body: Bytes,
}

impl Errand {
    /// The carrier that it names.
    pub(super) fn carrier(&self) -> Option<Bytes> {
        if let Some(name) = leading_carrier(&self.body) {
            return Some(self.body.slice_ref(name));
        }
        // Fields may come in any order, though no encoder does that.
        match self.kind {
            ErrandKind::Up => HttpUp::decode(self.body.clone()).ok().map(|up| up.carrier),
            ErrandKind::Down => HttpPoll::decode(self.body.clone()).ok().map(|poll| poll.carrier),
            ErrandKind::TooLarge => None,
        }
    }
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::downstream::carrier) enum ErrandKind {
    /// A packet, or the client's last word.
    Up,
    /// A poll.
    Down,
    /// The body was too large, and this is how it began: the carrier that it names is to be closed.
    TooLarge,
}

impl ErrandKind {
    const ALL: [Self; 3] = [Self::Up, Self::Down, Self::TooLarge];

    /// Where instances ask each other for it.
    pub(in crate::downstream::carrier) const fn path(self) -> &'static str {
        match self {
            Self::Up => "/bidiway/peer/http/up",
            Self::Down => "/bidiway/peer/http/down",
            Self::TooLarge => "/bidiway/peer/http/too-large",
        }
    }

    pub(in crate::downstream::carrier) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }
}

/// What all requests of a carrier have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::downstream::carrier) struct Owner {
    /// The page's origin, in its normal form.
    pub(super) origin: Option<Box<str>>,
    /// SHA-256 of the certificate that the client has shown.
    certificate: Option<[u8; 32]>,
}

impl Owner {
    /// Who makes a request on this connection.
    pub(super) fn of(head: &Parts, conn: &ConnInfo) -> Self {
        Self { origin: origin_of(&head.headers), certificate: fingerprint(conn) }
    }

    /// As another instance tells it of a client that came there.
    pub(in crate::downstream::carrier) fn relayed(headers: &HeaderMap) -> Self {
        Self { origin: origin_of(headers), certificate: relayed_fingerprint(headers) }
    }

    /// Tells it another instance.
    pub(in crate::downstream::carrier) fn write_to(&self, headers: &mut HeaderMap) {
        if let Some(origin) = self.origin.as_ref().and_then(|origin| HeaderValue::from_str(origin).ok()) {
            headers.insert(ORIGIN, origin);
        }
        write_fingerprint(self.certificate, headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downstream::ClientCertificate;

    #[test]
    fn an_owner_is_the_same_after_a_journey_through_headers() {
        let mut conn = ConnInfo::new(([127, 0, 0, 1], 1).into(), true);
        for origin in [None, Some("https://App.example:443"), Some("http://[::1]:8080"), Some("null")] {
            for certificate in [None, Some(ClientCertificate::new(&b"ada".to_vec().into()))] {
                let (mut head, ()) = http::Request::new(()).into_parts();
                if let Some(origin) = origin {
                    head.headers.insert(ORIGIN, HeaderValue::from_static(origin));
                }
                conn.certificate = certificate;
                let owner = Owner::of(&head, &conn);
                let mut written = HeaderMap::new();
                owner.write_to(&mut written);
                assert_eq!(Owner::relayed(&written), owner);
            }
        }
    }

    #[test]
    fn every_kind_has_a_path_of_its_own() {
        for kind in ErrandKind::ALL {
            assert_eq!(ErrandKind::of(kind.path()), Some(kind));
        }
        assert_eq!(ErrandKind::of("/bidiway/peer"), None);
    }
}
