//! A conversation: one call of one user in one room.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    room::{JoinError, Membership, Rooms},
    v1::{ChatMessage, chat_server},
};

/// The longest name of a room or a user, in bytes.
const MAX_NAME: usize = 64;
/// The longest text, in bytes.
const MAX_TEXT: usize = 4096;

/// Rooms in which everybody hears everybody.
#[derive(Debug, Default)]
pub(super) struct Chat {
    rooms: Rooms,
}

#[tonic::async_trait]
impl chat_server::Chat for Chat {
    type TalkStream = Conversation<Streaming<ChatMessage>>;

    async fn talk(
        &self,
        request: Request<Streaming<ChatMessage>>,
    ) -> Result<Response<Self::TalkStream>, Status> {
        Ok(Response::new(Conversation::new(self.rooms.clone(), request.into_inner())))
    }
}

/// One user's side of a conversation: what is said goes to the room, what the room says comes out. Dropped, the user
/// leaves.
#[derive(Debug)]
pub(super) struct Conversation<S> {
    rooms: Rooms,
    /// What the user says.
    said: S,
    /// Once the first message has named room and user.
    seat: Option<(Membership, mpsc::Receiver<ChatMessage>)>,
    over: bool,
}

impl<S> Conversation<S> {
    fn new(rooms: Rooms, said: S) -> Self {
        Self { rooms, said, seat: None, over: false }
    }

    fn hear(&mut self, message: ChatMessage) -> Result<(), Status> {
        check("text", &message.text, 0, MAX_TEXT)?;
        if self.seat.is_none() {
            check("room", &message.room, 1, MAX_NAME)?;
            check("user", &message.user, 1, MAX_NAME)?;
            let seat = self.rooms.join(&message.room, &message.user).map_err(|error| match error {
                JoinError::NameTaken => Status::already_exists(error.to_string()),
                JoinError::RoomFull | JoinError::TooManyRooms => {
                    Status::resource_exhausted(error.to_string())
                }
            })?;
            self.seat = Some(seat);
        }
        if let Some((membership, _)) = &self.seat
            && !message.text.is_empty()
        {
            membership.say(&message.text);
        }
        Ok(())
    }
}

impl<S: Stream<Item = Result<ChatMessage, Status>> + Unpin> Stream for Conversation<S> {
    type Item = Result<ChatMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some((_, messages)) = &mut self.seat
                && let Poll::Ready(Some(message)) = messages.poll_recv(cx)
            {
                return Poll::Ready(Some(Ok(message)));
            }
            let heard = std::task::ready!(Pin::new(&mut self.said).poll_next(cx))
                .map(|message| message.and_then(|message| self.hear(message)));
            if !matches!(heard, Some(Ok(()))) {
                self.over = true;
                self.seat = None;
            }
            if let Some(Err(status)) = heard {
                return Poll::Ready(Some(Err(status)));
            }
        }
    }
}

/// INVALID_ARGUMENT with the field's name unless a text has between `min` and `max` bytes.
fn check(field: &str, text: &str, min: usize, max: usize) -> Result<(), Status> {
    if (min..=max).contains(&text.len()) {
        return Ok(());
    }
    let description = format!("must have {min} to {max} bytes, has {}", text.len());
    let details = ErrorDetails::with_bad_request_violation(field, &description);
    let message = format!("{field} {description}");
    Err(Status::with_error_details(tonic::Code::InvalidArgument, message, details))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;

    use super::{super::v1::chat_message::Kind, *};

    type Voice = mpsc::Sender<Result<ChatMessage, Status>>;

    fn enter(rooms: &Rooms) -> (Voice, Conversation<ReceiverStream<Result<ChatMessage, Status>>>) {
        let (voice, said) = mpsc::channel(16);
        (voice, Conversation::new(rooms.clone(), ReceiverStream::new(said)))
    }

    fn message(room: &str, user: &str, text: &str) -> Result<ChatMessage, Status> {
        let (room, user, text) = (room.into(), user.into(), text.into());
        Ok(ChatMessage { room, user, text, ..Default::default() })
    }

    #[tokio::test]
    async fn the_first_message_joins_and_half_close_leaves_with_ok() {
        let rooms = Rooms::default();
        let (voice, mut ada) = enter(&rooms);
        voice.send(message("lobby", "ada", "")).await.unwrap();
        voice.send(message("elsewhere", "somebody", "hi")).await.unwrap();
        assert_eq!(ada.next().await.unwrap().unwrap().kind(), Kind::Joined);
        let said = ada.next().await.unwrap().unwrap();
        assert_eq!((&*said.room, &*said.user, &*said.text, said.members), ("lobby", "ada", "hi", 1));
        drop(voice);
        assert!(ada.next().await.is_none());
    }

    #[tokio::test]
    async fn a_taken_name_is_refused_and_the_holder_stays() {
        let rooms = Rooms::default();
        let (voice, mut ada) = enter(&rooms);
        voice.send(message("lobby", "ada", "")).await.unwrap();
        ada.next().await.unwrap().unwrap();
        let (impostor_voice, mut impostor) = enter(&rooms);
        impostor_voice.send(message("lobby", "ada", "it's me")).await.unwrap();
        let refused = impostor.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::AlreadyExists);
        assert!(impostor.next().await.is_none());
        drop(impostor);
        voice.send(message("", "", "still here")).await.unwrap();
        assert_eq!(ada.next().await.unwrap().unwrap().text, "still here");
    }

    #[tokio::test]
    async fn a_conversation_without_a_room_is_refused_with_the_field_named() {
        let (voice, mut nobody) = enter(&Rooms::default());
        voice.send(message("", "ada", "")).await.unwrap();
        let refused = nobody.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "room");
    }
}
