//! Chat rooms: who is there, and what they hear.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{
    request::now_ms,
    v1::{ChatMessage, chat_message::Kind},
};

/// Rooms at once.
const MAX_ROOMS: usize = 1000;
/// Members of a room.
const MAX_MEMBERS: usize = 200;
/// Messages that wait for a member who reads slowly. What does not fit is lost to this member, who is told.
const MAX_WAITING: usize = 64;

/// All rooms. Cheap to clone. A room lives as long as it has members.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooms {
    rooms: Arc<Mutex<HashMap<String, Room>>>,
}

/// The members of a room, by name.
type Room = HashMap<String, Member>;

#[derive(Debug)]
struct Member {
    inbox: mpsc::Sender<ChatMessage>,
    /// Messages lost since the last one that fitted.
    missed: u64,
}

/// Why somebody cannot come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JoinError {
    #[error("somebody of this name is in the room already")]
    NameTaken,
    #[error("the room is full")]
    RoomFull,
    #[error("there are too many rooms")]
    TooManyRooms,
}

/// One user in one room. Dropped, the user leaves.
#[derive(Debug)]
pub(super) struct Membership {
    rooms: Rooms,
    room: String,
    user: String,
}

impl Rooms {
    /// Comes into a room, which is made when it does not exist. Everybody there is told, the newcomer too.
    pub(super) fn join(
        &self,
        room: &str,
        user: &str,
    ) -> Result<(Membership, mpsc::Receiver<ChatMessage>), JoinError> {
        let mut rooms = self.lock();
        if !rooms.contains_key(room) && rooms.len() >= MAX_ROOMS {
            return Err(JoinError::TooManyRooms);
        }
        let members = rooms.entry(room.to_owned()).or_default();
        if members.contains_key(user) {
            return Err(JoinError::NameTaken);
        }
        if members.len() >= MAX_MEMBERS {
            return Err(JoinError::RoomFull);
        }
        let (inbox, messages) = mpsc::channel(MAX_WAITING);
        members.insert(user.to_owned(), Member { inbox, missed: 0 });
        broadcast(members, room, user, "", Kind::Joined);
        let membership = Membership { rooms: self.clone(), room: room.to_owned(), user: user.to_owned() };
        Ok((membership, messages))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Says something to everybody in the room.
    pub(super) fn say(&self, text: &str) {
        if let Some(members) = self.rooms.lock().get_mut(&self.room) {
            broadcast(members, &self.room, &self.user, text, Kind::Text);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut rooms = self.rooms.lock();
        let Some(members) = rooms.get_mut(&self.room) else { return };
        members.remove(&self.user);
        if members.is_empty() {
            rooms.remove(&self.room);
        } else {
            broadcast(members, &self.room, &self.user, "", Kind::Left);
        }
    }
}

/// Puts a message into every inbox that has room; a full one loses it.
fn broadcast(members: &mut Room, room: &str, user: &str, text: &str, kind: Kind) {
    let message = ChatMessage {
        room: room.to_owned(),
        user: user.to_owned(),
        text: text.to_owned(),
        kind: kind.into(),
        time_ms: now_ms(),
        members: u32::try_from(members.len()).unwrap_or(u32::MAX),
    };
    for member in members.values_mut() {
        // A notice of what was missed goes first, and only together with the message.
        if member.missed > 0 && member.inbox.capacity() >= 2 {
            let notice = ChatMessage {
                user: String::new(),
                text: format!("you read too slowly and missed {} messages", member.missed),
                kind: Kind::Notice.into(),
                ..message.clone()
            };
            member.missed = 0;
            let _ = member.inbox.try_send(notice);
        }
        if member.missed > 0 || member.inbox.try_send(message.clone()).is_err() {
            member.missed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(messages: &mut mpsc::Receiver<ChatMessage>) -> Vec<(Kind, String, String)> {
        std::iter::from_fn(|| messages.try_recv().ok()).map(|m| (m.kind(), m.user, m.text)).collect()
    }

    #[test]
    fn everybody_hears_who_comes_speaks_and_goes() {
        let rooms = Rooms::default();
        let (ada, mut heard) = rooms.join("lobby", "ada").unwrap();
        let (grace, mut also_heard) = rooms.join("lobby", "grace").unwrap();
        ada.say("hello");
        drop(grace);
        let said = |kind, user: &str, text: &str| (kind, user.to_owned(), text.to_owned());
        assert_eq!(
            drain(&mut heard),
            [
                said(Kind::Joined, "ada", ""),
                said(Kind::Joined, "grace", ""),
                said(Kind::Text, "ada", "hello"),
                said(Kind::Left, "grace", ""),
            ]
        );
        assert_eq!(
            drain(&mut also_heard),
            [said(Kind::Joined, "grace", ""), said(Kind::Text, "ada", "hello")]
        );
    }

    #[test]
    fn rooms_do_not_hear_each_other_and_vanish_with_their_last_member() {
        let rooms = Rooms::default();
        let (ada, _) = rooms.join("one", "ada").unwrap();
        let (_grace, mut heard) = rooms.join("two", "grace").unwrap();
        ada.say("hello");
        assert_eq!(drain(&mut heard).len(), 1, "only the own arrival");
        drop(ada);
        assert_eq!(rooms.lock().len(), 1);
    }

    #[test]
    fn a_name_is_taken_only_while_its_member_is_there() {
        let rooms = Rooms::default();
        let (ada, _) = rooms.join("lobby", "ada").unwrap();
        assert_eq!(rooms.join("lobby", "ada").unwrap_err(), JoinError::NameTaken);
        drop(ada);
        assert!(rooms.join("lobby", "ada").is_ok());
    }

    #[test]
    fn a_slow_member_misses_messages_and_is_told_how_many() {
        let rooms = Rooms::default();
        let (ada, mut heard) = rooms.join("lobby", "ada").unwrap();
        for n in 0..MAX_WAITING + 9 {
            ada.say(&n.to_string());
        }
        let first = drain(&mut heard);
        assert_eq!(first.len(), MAX_WAITING);
        assert_eq!(first.last().unwrap().2, (MAX_WAITING - 2).to_string(), "in order, from the oldest");
        ada.say("after");
        let then = drain(&mut heard);
        assert_eq!(then[0].0, Kind::Notice);
        assert!(then[0].2.contains("missed 10 messages"), "{}", then[0].2);
        assert_eq!(then[1].2, "after");
    }

    #[test]
    fn a_room_takes_only_so_many_members() {
        let rooms = Rooms::default();
        let members: Vec<_> =
            (0..MAX_MEMBERS).map(|n| rooms.join("lobby", &n.to_string()).unwrap()).collect();
        assert_eq!(rooms.join("lobby", "one more").unwrap_err(), JoinError::RoomFull);
        drop(members);
        assert!(rooms.lock().is_empty());
    }
}
