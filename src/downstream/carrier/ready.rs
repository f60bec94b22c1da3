//! Which of many things inside one task can go on.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// One task polls many streams. Each stream gets its own waker, which notes the stream here and wakes the task: a
/// wake-up then costs as much as there is to do, not as much as there are streams.
///
/// The lock is never contended while a session stays on its worker, and is held for a push or a swap.
#[derive(Debug, Default)]
pub(in crate::downstream) struct ReadyList {
    task: AtomicWaker,
    /// Bounded: every key stands in it at most once.
    keys: Mutex<Vec<u64>>,
}

impl ReadyList {
    /// The task to wake when a key becomes ready.
    pub(in crate::downstream) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// A waker that notes `key`.
    pub(in crate::downstream) fn waker(self: &Arc<Self>, key: u64) -> KeyWaker {
        let entry = Arc::new(Entry { key, queued: AtomicBool::new(false), list: Arc::clone(self) });
        KeyWaker { waker: Waker::from(Arc::clone(&entry)), entry }
    }

    /// Moves the keys that are ready to the end of `keys`.
    pub(in crate::downstream) fn take(&self, keys: &mut Vec<u64>) {
        keys.append(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A stream's waker, and the flag that keeps it from being noted twice.
#[derive(Debug)]
pub(in crate::downstream) struct KeyWaker {
    waker: Waker,
    entry: Arc<Entry>,
}

impl KeyWaker {
    /// To be called when the key has been taken from the list, before the thing is polled.
    pub(in crate::downstream) fn arm(&self) {
        self.entry.queued.store(false, Ordering::Release);
    }

    /// The waker to poll with.
    pub(in crate::downstream) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Notes the key as ready.
    pub(in crate::downstream) fn wake(&self) {
        self.waker.wake_by_ref();
    }
}

#[derive(Debug)]
struct Entry {
    key: u64,
    queued: AtomicBool,
    list: Arc<ReadyList>,
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.list.keys.lock().unwrap_or_else(PoisonError::into_inner).push(self.key);
            self.list.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_woken_twice_is_noted_once_until_it_is_armed_again() {
        let list = Arc::new(ReadyList::default());
        let seven = list.waker(7);
        let nine = list.waker(9);
        seven.wake();
        nine.wake();
        seven.wake();
        let mut keys = Vec::new();
        list.take(&mut keys);
        assert_eq!(keys, [7, 9]);
        seven.wake();
        keys.clear();
        list.take(&mut keys);
        assert_eq!(keys, [] as [u64; 0], "not armed: still counted as being on its way");
        seven.arm();
        seven.wake();
        list.take(&mut keys);
        assert_eq!(keys, [7]);
    }
}
