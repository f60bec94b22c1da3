//! How a member stands: what health checks and calls have told of it. No clock: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::{EjectionSettings, HealthSettings};

/// An ejection is at most so many times as long as the first.
const LONGEST: u32 = 10;

/// What is known of how well a member serves.
#[derive(Debug)]
pub(super) struct Standing {
    health: Health,
    /// Checks in a row that speak against `health`.
    against: u32,
    ejected: Option<Instant>,
    /// How often it was ejected with little time between.
    ejections: u32,
    /// When it was taken back, and from when on its share grows.
    pub(super) back: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nobody asks.
    Unasked,
    /// The first answer is to come.
    Unknown,
    Healthy,
    Unhealthy,
}

impl Standing {
    /// `asked`: there are health checks.
    pub(super) fn new(asked: bool) -> Self {
        let health = if asked { Health::Unknown } else { Health::Unasked };
        Self { health, against: 0, ejected: None, ejections: 0, back: None }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// Until when, if it is out.
    pub(super) fn ejected(&self) -> Option<Instant> {
        self.ejected
    }

    pub(super) fn is_usable(&self) -> bool {
        self.ejected.is_none() && matches!(self.health, Health::Unasked | Health::Healthy)
    }

    /// A check has ended; returns whether it has changed the health. The first one decides at once.
    pub(super) fn checked(&mut self, good: bool, settings: &HealthSettings, now: Instant) -> bool {
        let (next, wanted) = match (self.health, good) {
            (Health::Unasked, _) => return false,
            (Health::Unknown, true) => (Health::Healthy, 1),
            (Health::Unknown, false) => (Health::Unhealthy, 1),
            (Health::Healthy, false) => (Health::Unhealthy, settings.unhealthy),
            (Health::Unhealthy, true) => (Health::Healthy, settings.healthy),
            (Health::Healthy, true) | (Health::Unhealthy, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < wanted {
            return false;
        }
        if (self.health, next) == (Health::Unhealthy, Health::Healthy) {
            self.back = Some(now);
        }
        self.health = next;
        self.against = 0;
        true
    }

    /// Takes it out; returns for how long.
    pub(super) fn eject(&mut self, settings: &EjectionSettings, now: Instant) -> Duration {
        // It did well for longer than it was out: that is forgiven.
        let last = settings.time * self.ejections;
        if self.back.is_none_or(|back| now.saturating_duration_since(back) > last) {
            self.ejections = 0;
        }
        self.ejections = (self.ejections + 1).min(LONGEST);
        let time = settings.time * self.ejections;
        self.ejected = Some(now + time);
        time
    }

    pub(super) fn take_back(&mut self, now: Instant) {
        self.ejected = None;
        self.back = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_check_decides_and_later_ones_only_in_a_row() {
        let (settings, now) = (HealthSettings::default(), Instant::now());
        let mut standing = Standing::new(true);
        assert!(!standing.is_usable(), "nobody knows yet");
        assert!(standing.checked(true, &settings, now) && standing.is_usable());
        assert_eq!(standing.back, None, "a new member has its full share at once");
        for good in [false, false, true, false, false] {
            assert!(!standing.checked(good, &settings, now));
        }
        assert!(standing.checked(false, &settings, now) && !standing.is_usable());
        for good in [true, false, true] {
            assert!(!standing.checked(good, &settings, now));
        }
        assert!(standing.checked(true, &settings, now) && standing.is_usable());
        assert_eq!(standing.back, Some(now));
        let mut dead = Standing::new(true);
        assert!(dead.checked(false, &settings, now) && dead.health() == Health::Unhealthy);
    }

    #[test]
    fn ejections_in_a_row_grow_and_good_times_are_remembered() {
        let settings = EjectionSettings { time: 10 * SECOND, ..EjectionSettings::default() };
        let mut now = Instant::now();
        let mut standing = Standing::new(false);
        for n in 1..=12 {
            assert_eq!(standing.eject(&settings, now), 10 * SECOND * n.min(10));
            assert!(!standing.is_usable());
            now = standing.ejected().unwrap();
            standing.take_back(now);
            assert!(standing.is_usable());
            now += 5 * SECOND;
        }
        now += 101 * SECOND;
        assert_eq!(standing.eject(&settings, now), 10 * SECOND, "as if it were the first");
    }

    #[test]
    fn an_ejected_member_is_not_taken_back_by_a_good_check() {
        let now = Instant::now();
        let mut standing = Standing::new(true);
        standing.checked(true, &HealthSettings::default(), now);
        standing.eject(&EjectionSettings::default(), now);
        standing.checked(true, &HealthSettings::default(), now);
        assert!(!standing.is_usable());
    }
}
