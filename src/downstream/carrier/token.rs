//! Resume tokens: what they look like, and how they are compared.

use std::{fmt, hint::black_box, num::ParseIntError, str::FromStr};

use bytes::Bytes;

/// Names one instance of the proxy in the tokens it gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InstanceId([u8; 8]);

impl InstanceId {
    /// An id that no other instance has: random, made at the start.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut id = [0; 8];
        getrandom::fill(&mut id)?;
        Ok(Self(id))
    }

    /// The id of an instance that has a configured name, the same after each restart (FNV-1a, 64 bits). The name
    /// itself is in no token.
    pub(super) fn named(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash.to_be_bytes())
    }
}

/// In hexadecimal: how instances tell each other, and logs, who they are.
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for InstanceId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes()))
    }
}

/// One run of one instance: a named instance is the same one after a restart, and what it had is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) instance: InstanceId,
    start: [u8; START],
}

impl Run {
    /// The run that begins now.
    pub(super) fn begin(instance: InstanceId) -> Result<Self, getrandom::Error> {
        let mut start = [0; START];
        getrandom::fill(&mut start)?;
        Ok(Self { instance, start })
    }
}

/// Where a session is found in its instance. It stays the same as long as the session lives, and proves nothing.
pub(super) type Locator = u64;

const INSTANCE: usize = 8;

/// Enough to tell a run from the ones before it; it protects nothing.
const START: usize = 4;
const LOCATOR: usize = 8;

/// 192 random bits: nobody guesses them.
const SECRET: usize = 24;

const LEN: usize = INSTANCE + START + LOCATOR + SECRET;

/// A place for a new session, at random: whoever reads it in one token learns nothing about others.
pub(super) fn new_locator() -> Result<Locator, getrandom::Error> {
    getrandom::u64()
}

/// A new token of a session.
pub(super) fn mint(run: Run, locator: Locator) -> Result<Bytes, getrandom::Error> {
    let mut token = [0; LEN];
    let (place, secret) = token.split_at_mut(INSTANCE + START + LOCATOR);
    place[..INSTANCE].copy_from_slice(&run.instance.0);
    place[INSTANCE..INSTANCE + START].copy_from_slice(&run.start);
    place[INSTANCE + START..].copy_from_slice(&locator.to_be_bytes());
    getrandom::fill(secret)?;
    Ok(Bytes::copy_from_slice(&token))
}

/// Where a token leads. `None`: it is none of ours.
pub(super) fn read(token: &[u8]) -> Option<(Run, Locator)> {
    let token: &[u8; LEN] = token.try_into().ok()?;
    let (instance, rest) = token.split_first_chunk::<INSTANCE>()?;
    let (start, rest) = rest.split_first_chunk::<START>()?;
    let locator = rest.first_chunk::<LOCATOR>()?;
    Some((Run { instance: InstanceId(*instance), start: *start }, Locator::from_be_bytes(*locator)))
}

/// Whether two tokens are the same, in a time that does not tell how far they agree.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_its_instance_and_session_and_no_two_are_the_same() {
        let run = Run::begin(InstanceId::random().unwrap()).unwrap();
        let (one, other) = (mint(run, 7).unwrap(), mint(run, 7).unwrap());
        assert_eq!(read(&one), Some((run, 7)));
        assert!(one.len() <= 64, "docs/protocol.md, section 17");
        assert!(same(&one, &one.clone()));
        assert!(!same(&one, &other));
        assert!(!same(&one, &one[..LEN - 1]));
        for foreign in [&b""[..], &one[1..], &[0; LEN + 1]] {
            assert_eq!(read(foreign), None);
        }
    }

    #[test]
    fn a_named_instance_has_the_same_id_at_every_start() {
        assert_eq!(InstanceId::named("edge-0"), InstanceId::named("edge-0"));
        assert_ne!(InstanceId::named("edge-0"), InstanceId::named("edge-1"));
        assert_ne!(InstanceId::random().unwrap(), InstanceId::random().unwrap());
        let id = InstanceId::named("edge-0");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(Run::begin(id).unwrap(), Run::begin(id).unwrap(), "but is told from what it was before");
    }
}
