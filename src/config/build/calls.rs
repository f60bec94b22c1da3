//! What calls to an upstream are allowed.

use super::Builder;
use crate::{
    config::{
        Duration,
        file::{Percent, Retrying, Upstream},
        read::At,
    },
    upstream::{self, Retries},
};

impl Builder<'_> {
    pub(super) fn calls(&mut self, settings: &mut upstream::Settings, given: &Upstream) {
        if let Some(Retrying(retries)) = given.retries {
            settings.retries = retries.map(|given| {
                let default = Retries::default();
                Retries {
                    budget: given.budget.map_or(default.budget, |Percent(percent)| percent),
                    per_second: given.per_second.unwrap_or(default.per_second),
                    attempts: given.attempts.map_or(default.attempts, |n| n as usize),
                }
            });
        }
        settings.max_calls = given.max_calls.map(|n| n as usize);
        settings.max_pending = given.max_pending.map(|n| n as usize);
        settings.max_stream_age = self.stream_age(given.max_stream_age.as_ref());
    }

    /// The greatest age of calls, of an upstream or of a route.
    pub(super) fn stream_age(&mut self, given: Option<&At<Duration>>) -> Option<std::time::Duration> {
        let at = given?.at;
        let mut age = std::time::Duration::ZERO;
        self.time(&mut age, given);
        if !age.is_zero() && age < LEAST_AGE {
            self.problems.add(at, "a second is the least: a call that ends sooner is a timeout's matter");
        }
        Some(age)
    }
}

/// Shorter, it would end calls that nobody calls streams.
const LEAST_AGE: std::time::Duration = std::time::Duration::from_secs(1);
