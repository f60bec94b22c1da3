//! What clients may use, sessions, and how the process runs and stops.

use std::{thread, time::Duration as Time};

use super::{Builder, LARGEST_MESSAGE};
use crate::{
    config::{
        Duration, Size,
        choice::{Drain, Keepalive, Share},
        file::{self, DrainTimes, Limits, Overload, Session},
        read::At,
    },
    downstream::{self, CallLimits, OverloadSettings, SessionSettings},
    server::DrainSettings,
    session::{INITIAL_CREDIT, LEAST_REPLAY},
};

/// How long calls may go on after the signal to stop. Kubernetes kills after 30 s, and the last words take time too.
const DRAIN: Time = Time::from_secs(25);

/// How long balancers may take to learn of the signal, and over how long clients are sent elsewhere.
const DRAIN_GRACE: Time = Time::from_secs(5);
const DRAIN_SPREAD: Time = Time::from_secs(5);

/// How often files are looked at for changes. A look costs a system call for each file.
const LOOK_AT_FILES: Time = Time::from_secs(1);

/// Credit beyond this is no flow control any more.
const LARGEST_CREDIT: u64 = 16 << 20;

/// A session that keeps more is no session but a file.
const LARGEST_REPLAY: u64 = 64 << 20;

impl Builder<'_> {
    pub(super) fn limits(&mut self, given: Option<&Limits>) -> downstream::Limits {
        let mut limits = downstream::Limits::default();
        let Some(given) = given else { return limits };
        self.size(&mut limits.max_message, given.max_message.as_ref(), 1, LARGEST_MESSAGE);
        let mut metadata = limits.max_metadata.into();
        self.size(&mut metadata, given.max_metadata.as_ref(), 1 << 10, 1 << 20);
        limits.max_metadata = metadata as u32;
        limits.sockets_per_address = given.sockets_per_address.unwrap_or(limits.sockets_per_address);
        limits.parked_sessions = given.parked_sessions.unwrap_or(limits.parked_sessions);
        limits.parked_per_address = given.parked_per_address.unwrap_or(limits.parked_per_address);
        self.size(&mut limits.parked_bytes, given.parked_bytes.as_ref(), 0, u64::MAX);
        limits.http2_streams = given.http2_streams.unwrap_or(limits.http2_streams);
        self.time(&mut limits.handshake_timeout, given.handshake_timeout.as_ref());
        self.time(&mut limits.header_timeout, given.header_timeout.as_ref());
        limits.connections_per_address =
            given.connections_per_address.unwrap_or(limits.connections_per_address);
        limits.upgrades_per_minute = given.upgrades_per_minute.or(limits.upgrades_per_minute);
        limits.per_address = self.call_limits(given.per_address.as_ref());
        limits.per_principal = self.call_limits(given.per_principal.as_ref());
        limits.cancels_per_second = given.cancels_per_second.or(limits.cancels_per_second);
        self.time(&mut limits.write_timeout, given.write_timeout.as_ref());
        limits
    }

    fn call_limits(&mut self, given: Option<&file::CallLimits>) -> CallLimits {
        given.map_or_else(CallLimits::default, |given| CallLimits {
            calls_per_second: given.calls_per_second,
            concurrent_calls: given.concurrent_calls,
            messages_per_second: given.messages_per_second,
            bytes_per_second: self.bytes_per_second(given.bytes_per_second.as_ref()),
        })
    }

    pub(super) fn bytes_per_second(&mut self, given: Option<&At<Size>>) -> Option<u32> {
        let mut bytes = 0;
        self.size(&mut bytes, given, 1 << 10, 1 << 30);
        given.map(|_| bytes as u32)
    }

    pub(super) fn overload(&mut self, given: Option<&Overload>) -> OverloadSettings {
        let mut overload = OverloadSettings::default();
        let Some(given) = given else { return overload };
        overload.memory = given.memory.map_or(overload.memory, |Share(part)| part);
        overload.files = given.files.map_or(overload.files, |Share(part)| part);
        if given.max_memory.is_some() {
            let mut most = 0;
            self.size(&mut most, given.max_memory.as_ref(), 1 << 20, 1 << 50);
            overload.max_memory = Some(most);
        }
        self.time(&mut overload.lag, given.lag.as_ref());
        overload.readiness = given.readiness.unwrap_or(overload.readiness);
        overload
    }

    pub(super) fn session(&mut self, given: Option<&Session>) -> SessionSettings {
        let mut session = SessionSettings::default();
        let Some(given) = given else { return session };
        let mut credit = session.credit.into();
        // Clients work with this much until Welcome tells them the real credit.
        self.size(&mut credit, given.credit.as_ref(), INITIAL_CREDIT.into(), LARGEST_CREDIT);
        session.credit = credit as u32;
        session.max_streams = given.streams.unwrap_or(session.max_streams);
        self.time(&mut session.ping, given.ping.as_ref());
        self.time(&mut session.hello_timeout, given.hello_timeout.as_ref());
        if let Some(Duration(grace)) = given.resume {
            session.resume = grace;
        }
        let mut buffer = session.resume_buffer as u64;
        self.size(&mut buffer, given.resume_buffer.as_ref(), LEAST_REPLAY as u64, LARGEST_REPLAY);
        session.resume_buffer = buffer as usize;
        session.fallback = given.fallback.unwrap_or(session.fallback);
        self.time(&mut session.heartbeat, given.heartbeat.as_ref());
        session
    }

    /// `watched`: somebody may ask whether the process is ready.
    pub(super) fn drain(&mut self, drain: Option<&At<Drain>>, watched: bool) -> DrainSettings {
        let times = drain.map(|drain| &drain.value.0);
        let given = |key: fn(&DrainTimes) -> Option<Duration>| times.and_then(key).map(|Duration(time)| time);
        let timeout = given(|times| times.timeout).unwrap_or(DRAIN);
        let grace = if watched { DRAIN_GRACE.min(timeout / 4) } else { Time::ZERO };
        let grace = given(|times| times.grace).unwrap_or(grace);
        let spread = given(|times| times.spread).unwrap_or_else(|| DRAIN_SPREAD.min(timeout / 4));
        if let Some(drain) = drain
            && grace.saturating_add(spread) > timeout
        {
            let text = format!(
                "grace ({grace:?}) and spread ({spread:?}) do not fit into the timeout ({timeout:?}), which begins \
                 with the signal too; make it longer than both together"
            );
            self.problems.add(drain.at, text);
        }
        DrainSettings { grace, spread, timeout }
    }

    /// How often files are looked at.
    pub(super) fn reload(&mut self, given: Option<&At<Keepalive>>) -> Option<Time> {
        const LEAST: Time = Time::from_millis(100);
        let Some(At { at, value: Keepalive(every) }) = given else { return Some(LOOK_AT_FILES) };
        let every = every.map(|Duration(every)| every);
        if every.is_some_and(|every| every < LEAST) {
            let text = "files are looked at every 100ms at most; write \"off\" for only when SIGHUP comes";
            self.problems.add(*at, text);
        }
        every
    }

    pub(super) fn workers(&mut self, given: Option<&At<u32>>) -> usize {
        const MOST: u32 = 1024;
        match given {
            None => thread::available_parallelism().map_or(1, Into::into),
            Some(workers) => {
                if workers.value > MOST {
                    let text = format!("{} worker threads are too many; at most {MOST}", workers.value);
                    self.problems.add(workers.at, text);
                }
                workers.value as usize
            }
        }
    }
}
