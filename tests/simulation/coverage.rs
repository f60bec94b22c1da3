//! What a simulation has done, so that it can be seen whether it has done everything.

use std::{collections::BTreeMap, fmt};

/// What must have happened at least once when all seeds have run.
const EXPECTED: &[&str] = &[
    "Ack up",
    "Ack down",
    "Cancel",
    "Credit up",
    "Credit down",
    "data up",
    "data down",
    "GoAway",
    "HalfClose",
    "Headers",
    "Hello",
    "Open",
    "Ping",
    "Pong",
    "Refresh",
    "Trailers",
    "Welcome",
    "cut",
    "drained",
    "nothing was stuck, and everything ended",
    "oversized",
    "refused while going away",
    "refused for too many",
    "writable",
    // Of sessions that can be resumed.
    "Hello came twice",
    "a late Hello was refused",
    "a late packet was thrown away",
    "attached",
    "cut before a resume was answered",
    "cut before the first Welcome",
    "cut for both",
    "cut for the client",
    "cut for the proxy",
    "cut while the client sent again",
    "cut while the proxy sent again",
    "drained by a resume",
    "drained while the client was away",
    "lost, and not processed",
    "much is kept",
    "resumed",
    "resumed after a second cut during the resume",
    "resumed when nothing had been received",
    "resumed with calls and no message before the cut",
    "sent again down",
    "sent again up",
    "silence for the client",
    "silence for the proxy",
    "started over",
    "started over with open calls",
    "taken over by a Hello that nobody waits for",
    "the client gave the session up",
    "the proxy gave the session up",
    "the same token was announced again",
    "took over from a carrier that seemed alive",
];

/// How often each thing was exercised, and how many steps found the two sides in which states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    things: BTreeMap<&'static str, u64>,
    /// The client's, the proxy's, and whether the proxy has said GoAway.
    states: BTreeMap<(ClientState, ProxyState, bool), u64>,
}

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientState {
    /// Its first Welcome has not come.
    Greeting,
    Open,
    /// It is on a new carrier, and what the proxy lacks has not all been sent again.
    SendingAgain,
    /// It has no carrier.
    Away,
    /// It has sent Hello on a new carrier, and Welcome has not come.
    Resuming,
}

/// How far the proxy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProxyState {
    /// Hello has not come.
    Greeting,
    Open,
    /// It is on a new carrier, and what the client lacks has not all been sent again.
    SendingAgain,
    /// It has no carrier.
    Away,
    /// It is gone, and the client does not know.
    Closed,
}

const CLIENT: [ClientState; 5] = {
    use ClientState::{Away, Greeting, Open, Resuming, SendingAgain};
    [Greeting, Open, SendingAgain, Away, Resuming]
};

const PROXY: [ProxyState; 5] = {
    use ProxyState::{Away, Closed, Greeting, Open, SendingAgain};
    [Greeting, Open, SendingAgain, Away, Closed]
};

/// Whether the two can be in these states.
fn can_be((client, proxy, going_away): (ClientState, ProxyState, bool)) -> bool {
    match (client, proxy) {
        // Who goes away before there is a call closes at once; a call can come only with Hello or after it.
        (ClientState::Greeting, ProxyState::Open) => true,
        (ClientState::Greeting, ProxyState::SendingAgain) => false, // nobody comes back without a token
        (ClientState::Greeting, _) => !going_away,
        (_, ProxyState::Greeting) => false, // Welcome came after Hello
        // It notices the silence long before the proxy's grace is over, and hears it when the proxy closes in order.
        (ClientState::Open | ClientState::SendingAgain, ProxyState::Closed) => false,
        _ => true,
    }
}

impl Coverage {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.things.entry(what).or_default() += 1;
    }

    pub(crate) fn see(&mut self, client: ClientState, proxy: ProxyState, going_away: bool) {
        *self.states.entry((client, proxy, going_away)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (what, times) in other.things {
            *self.things.entry(what).or_default() += times;
        }
        for (states, times) in other.states {
            *self.states.entry(states).or_default() += times;
        }
    }

    /// What should have happened, and has not.
    pub(crate) fn missing(&self) -> Vec<String> {
        let things = EXPECTED.iter().filter(|what| !self.things.contains_key(**what));
        let states = [false, true].into_iter().flat_map(|going_away| {
            CLIENT.into_iter().flat_map(move |client| PROXY.map(|proxy| (client, proxy, going_away)))
        });
        let states = states.filter(|states| can_be(*states) && !self.states.contains_key(states));
        things.map(|what| (*what).into()).chain(states.map(|states| format!("{states:?}"))).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times) in &self.things {
            writeln!(f, "{times:>12} {what}")?;
        }
        writeln!(f, "steps by the states of the client (lines) and of the proxy (columns):")?;
        for going_away in [false, true] {
            write!(f, "{:>14}", if going_away { "after GoAway" } else { "" })?;
            for proxy in PROXY {
                write!(f, "{:>14}", format!("{proxy:?}"))?;
            }
            writeln!(f)?;
            for client in CLIENT {
                write!(f, "{:>14}", format!("{client:?}"))?;
                for proxy in PROXY {
                    let times = self.states.get(&(client, proxy, going_away)).copied().unwrap_or_default();
                    write!(f, "{times:>14}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
