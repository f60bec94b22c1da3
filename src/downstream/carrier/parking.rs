//! Room for sessions that wait for their clients.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::mailbox::Mailbox;
use crate::{downstream::address_table::subject, telemetry::Metrics};

/// When a parked session is looked at first; then each time after twice as long. A service fills its windows within
/// some round trips, or hardly ever.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// How much room there is, in the whole process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) sessions: u32,
    /// Of one client address (as `AddressTable` counts addresses).
    pub(super) per_address: u32,
    /// What the sessions keep for their clients.
    pub(super) bytes: u64,
}

/// The sessions without a carrier, of all workers. Where there is no room, the session goes that has been there
/// longest: of those it is the least likely to be fetched. An address that has too many loses one of its own.
#[derive(Debug)]
pub(super) struct Parking {
    metrics: Arc<Metrics>,
    parked: Mutex<Parked>,
}

#[derive(Debug)]
struct Parked {
    room: Room,
    /// In the order of arrival.
    places: BTreeMap<u64, Occupant>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    bytes: u64,
    next: u64,
}

#[derive(Debug)]
struct Occupant {
    address: IpAddr,
    bytes: u64,
    mailbox: Arc<Mailbox>,
}

impl Parking {
    pub(super) fn new(room: Room, metrics: Arc<Metrics>) -> Arc<Self> {
        let parked = Parked { room, places: BTreeMap::new(), by_address: HashMap::new(), bytes: 0, next: 0 };
        Arc::new(Self { metrics, parked: Mutex::new(parked) })
    }

    /// From now on there is so much room. Too many sessions of one address go as more of them come.
    pub(super) fn resize(&self, room: Room) {
        let mut parked = self.parked();
        parked.room = room;
        self.make_room(&mut parked);
    }

    /// A place for a session that keeps so many bytes. If it is too much, sessions are told to go by their
    /// mailboxes, perhaps this one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, bytes: u64, mailbox: Arc<Mailbox>) -> Place {
        let address = subject(address);
        let mut parked = self.parked();
        let per_address = parked.room.per_address as usize;
        let number = parked.next;
        parked.next += 1;
        parked.bytes += bytes;
        parked.places.insert(number, Occupant { address, bytes, mailbox });
        let of_address = parked.by_address.entry(address).or_default();
        of_address.insert(number);
        let crowded = of_address.len() > per_address;
        if let Some(oldest) = of_address.first().copied().filter(|_| crowded) {
            parked.evict(oldest);
        }
        self.make_room(&mut parked);
        Place {
            parking: Arc::clone(self),
            number,
            bytes,
            look: Instant::now() + FIRST_LOOK,
            pause: FIRST_LOOK,
        }
    }

    fn make_room(&self, parked: &mut Parked) {
        while parked.places.len() > parked.room.sessions as usize || parked.bytes > parked.room.bytes {
            let Some((&oldest, _)) = parked.places.first_key_value() else { break };
            parked.evict(oldest);
        }
        self.metrics.parked(parked.places.len(), parked.bytes);
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    fn remove(&mut self, number: u64) -> Option<Occupant> {
        let occupant = self.places.remove(&number)?;
        self.bytes -= occupant.bytes;
        if let Some(numbers) = self.by_address.get_mut(&occupant.address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&occupant.address);
            }
        }
        Some(occupant)
    }

    fn evict(&mut self, number: u64) {
        if let Some(occupant) = self.remove(number) {
            occupant.mailbox.evict(number);
        }
    }
}

/// A parked session's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    parking: Arc<Parking>,
    number: u64,
    bytes: u64,
    /// When to look how much the session keeps, and how long to wait after that.
    look: Instant,
    pause: Duration,
}

impl Place {
    /// Whether it is the place of this number.
    pub(super) fn is(&self, number: u64) -> bool {
        self.number == number
    }

    /// When to say how much the session keeps, also if nothing has happened in it.
    pub(super) fn next_look(&self) -> Instant {
        self.look
    }

    /// The session keeps so many bytes now.
    pub(super) fn update(&mut self, bytes: u64, now: Instant) {
        if self.look <= now {
            self.look = now + self.pause;
            self.pause *= 2;
        }
        if bytes == self.bytes {
            return;
        }
        self.bytes = bytes;
        let mut parked = self.parking.parked();
        let Some(occupant) = parked.places.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut occupant.bytes, bytes);
        parked.bytes = parked.bytes - before + bytes;
        self.parking.make_room(&mut parked);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut parked = self.parking.parked();
        parked.remove(self.number);
        self.parking.metrics.parked(parked.places.len(), parked.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downstream::carrier::ready::ReadyList;

    fn parking(room: Room) -> Arc<Parking> {
        Parking::new(room, Metrics::new())
    }

    const ROOM: Room = Room { sessions: 3, per_address: 2, bytes: 100 };

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(Arc::new(ReadyList::default()).waker(0)))
    }

    fn is_evicted(mailbox: &Mailbox) -> bool {
        mailbox.open().evicted.is_some()
    }

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn an_address_with_too_many_sessions_loses_its_oldest_and_no_other_does() {
        let parking = parking(ROOM);
        let boxes: Vec<_> = (0..4).map(|_| mailbox()).collect();
        let addresses = [2, 1, 1, 1];
        let _places: Vec<_> =
            boxes.iter().zip(addresses).map(|(m, n)| parking.enter(ip(n), 1, m.clone())).collect();
        let evicted: Vec<_> = boxes.iter().map(|m| is_evicted(m)).collect();
        assert_eq!(evicted, [false, true, false, false]);
    }

    #[test]
    fn beyond_the_number_of_sessions_the_oldest_goes() {
        let parking = parking(ROOM);
        let boxes: Vec<_> = (0..4).map(|_| mailbox()).collect();
        let _places: Vec<_> =
            boxes.iter().zip(1..).map(|(m, n)| parking.enter(ip(n), 1, m.clone())).collect();
        let evicted: Vec<_> = boxes.iter().map(|m| is_evicted(m)).collect();
        assert_eq!(evicted, [true, false, false, false]);
    }

    #[test]
    fn beyond_the_bytes_as_many_go_as_it_takes_also_when_one_grows_later() {
        let parking = parking(ROOM);
        let boxes: Vec<_> = (0..3).map(|_| mailbox()).collect();
        let mut places: Vec<_> =
            boxes.iter().zip(1..).map(|(m, n)| parking.enter(ip(n), 30, m.clone())).collect();
        assert!(!boxes.iter().any(|m| is_evicted(m)));
        places[2].update(80, Instant::now());
        let evicted: Vec<_> = boxes.iter().map(|m| is_evicted(m)).collect();
        assert_eq!(evicted, [true, true, false]);
        places[2].update(101, Instant::now());
        assert!(is_evicted(&boxes[2]), "there is no room for it even alone");
        let parked = parking.parked();
        assert_eq!((parked.places.len(), parked.by_address.len(), parked.bytes), (0, 0, 0));
    }

    #[test]
    fn a_session_that_has_lost_its_place_and_has_another_by_now_keeps_that_one() {
        let parking = parking(ROOM);
        let mailbox = mailbox();
        let first = parking.enter(ip(1), 101, mailbox.clone());
        // It comes back and goes again before it hears of that.
        drop(first);
        let second = parking.enter(ip(1), 1, mailbox.clone());
        let evicted = mailbox.open().evicted.unwrap();
        assert!(!second.is(evicted));
        drop(second);
        let third = parking.enter(ip(1), 101, mailbox.clone());
        assert!(third.is(mailbox.open().evicted.unwrap()));
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let parking = parking(ROOM);
        let first = mailbox();
        drop(parking.enter(ip(1), 90, first.clone()));
        let second = mailbox();
        let _place = parking.enter(ip(1), 90, second.clone());
        assert!(!is_evicted(&first) && !is_evicted(&second));
        assert_eq!(parking.parked().bytes, 90);
    }
}
