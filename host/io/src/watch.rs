//! A look at threads that touch disks: one that hangs is given up, and another does the work of the rest.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::Thread;
use std::time::Duration;

use crate::spool::Spool;
use crate::sys::{lock, milliseconds};

/// So often they are looked at, while any of them works.
const TICK: Duration = Duration::from_millis(50);
/// A piece of work that takes longer hangs, or as good as that.
const LIMIT: Duration = Duration::from_millis(200);

/// The mark of a thread that was given up.
const GIVEN_UP: u64 = u64::MAX;

/// What one thread does.
#[derive(Debug, Default)]
pub(crate) struct Post {
    /// When its piece of work began, 0 where it has none.
    since: AtomicU64,
    /// Held while another is put in its place.
    relieving: Mutex<()>,
    /// The spool that it works for, where its work is one spool's.
    pub(crate) spool: Mutex<Option<Arc<Spool>>>,
}

impl Post {
    /// Another thread is in this one's place already.
    pub(crate) fn is_given_up(&self) -> bool {
        self.since.load(Ordering::SeqCst) == GIVEN_UP
    }

    /// When its piece of work began; None where it has none, or is given up already.
    fn since(&self) -> Option<u64> {
        Some(self.since.load(Ordering::SeqCst)).filter(|since| *since != 0 && *since != GIVEN_UP)
    }
}

/// Where threads can be replaced. Called by the watch alone.
pub(crate) trait Place: Send + Sync {
    /// The thread on this post hangs: another has to go on. What it has in hand is to be left alone until it comes back by itself.
    fn relieve(self: Arc<Self>, post: &Arc<Post>);
}

struct Seat {
    post: Weak<Post>,
    place: Weak<dyn Place>,
}

/// The thread that looks. It costs nothing while nobody works.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Inner>);

struct Inner {
    seats: Mutex<Vec<Seat>>,
    /// It sleeps until somebody begins to work.
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Ends when the last one that has it, and the last thread that is watched, is gone.
    pub(crate) fn start() -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            seats: Mutex::default(),
            asleep: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let weak = Arc::downgrade(&inner);
        let thread = std::thread::Builder::new().name("output-watch".into()).spawn(move || watch(&weak))?;
        *lock(&inner.thread) = Some(thread.thread().clone());
        Ok(Self(inner))
    }

    /// A post for a thread of this place.
    pub(crate) fn post(&self, place: Weak<dyn Place>) -> Arc<Post> {
        let post = Arc::new(Post::default());
        let mut seats = lock(&self.0.seats);
        seats.retain(|seat| seat.post.strong_count() > 0);
        seats.push(Seat { post: Arc::downgrade(&post), place });
        post
    }

    /// The thread on this post begins a piece of work that may hang.
    pub(crate) fn begin(&self, post: &Post) {
        post.since.store(milliseconds(), Ordering::SeqCst);
        if self.0.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.0.thread)
        {
            thread.unpark();
        }
    }

    /// It is done. False: it took too long, and another thread is in this one's place.
    pub(crate) fn end(post: &Post) -> bool {
        let in_time = post.since.swap(0, Ordering::SeqCst) != GIVEN_UP;
        if !in_time {
            // What it had in hand is set aside as a whole before it comes back to it.
            drop(lock(&post.relieving));
        }
        in_time
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // For it to see that there is nothing left to watch.
        if let Some(thread) = &*lock(&self.thread) {
            thread.unpark();
        }
    }
}

fn watch(inner: &Weak<Inner>) {
    let mut idle = false;
    loop {
        let Some(held) = inner.upgrade() else { return };
        let now = milliseconds();
        let posts: Vec<(Arc<Post>, Arc<dyn Place>)> = lock(&held.seats)
            .iter()
            .filter_map(|seat| Some((seat.post.upgrade()?, seat.place.upgrade()?)))
            .collect();
        let mut busy = false;
        for (post, place) in posts {
            let Some(since) = post.since() else { continue };
            busy = true;
            let hangs = Duration::from_millis(now.saturating_sub(since)) >= LIMIT;
            let _relieving = lock(&post.relieving);
            // Not where it has just come to an end.
            if hangs
                && post.since.compare_exchange(since, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                place.relieve(&post);
            }
        }
        // Asleep only after a whole look without work; who begins meanwhile wakes it.
        let sleep = !busy && idle;
        idle = !busy;
        if sleep {
            held.asleep.store(true, Ordering::SeqCst);
            let works = |seat: &Seat| seat.post.upgrade().is_some_and(|post| post.since().is_some());
            if lock(&held.seats).iter().any(works) {
                held.asleep.store(false, Ordering::SeqCst);
            }
        }
        let asleep = held.asleep.load(Ordering::SeqCst);
        drop(held);
        if asleep {
            std::thread::park();
        } else {
            // Spurious wake-ups only look once more.
            std::thread::park_timeout(TICK);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "these tests are about threads that stand still")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Place for Counted {
        fn relieve(self: Arc<Self>, post: &Arc<Post>) {
            assert_eq!(post.since(), None);
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_hangs_is_relieved_once_and_who_works_is_not() {
        let watch = Watch::start().unwrap();
        let place = Arc::new(Counted::default());
        let weak: Weak<dyn Place> = Arc::downgrade(&(place.clone() as Arc<dyn Place>));
        let (hangs, works) = (watch.post(weak.clone()), watch.post(weak));
        // Long enough for it to fall asleep.
        std::thread::sleep(TICK * 5);
        watch.begin(&hangs);
        let end = Instant::now() + Duration::from_secs(20);
        while hangs.since().is_some() {
            assert!(Instant::now() < end, "nobody noticed");
            watch.begin(&works);
            assert!(Watch::end(&works), "one that works is left alone");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(TICK * 5);
        assert_eq!(place.0.load(Ordering::SeqCst), 1);
        assert!(!Watch::end(&hangs));
    }
}
