//! Work on file systems that are not ours: binds, devices of volumes, the inside of containers.
//!
//! A network or FUSE file system may never answer, and no call to it can be given up: the thread that made it is stuck for as long
//! as its kernel thread is. So such work has threads of its own, is waited for with patience that ends, and a place that has a thread
//! stuck gets no further one until it answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::pool::Pool;

/// How long a place may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// At most so many threads; those of places that answer are soon free again.
const THREADS: usize = 128;

type Stuck = Arc<Mutex<HashMap<String, usize>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and strings are whole after every operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the work is at, for the message when it does not come back.
#[derive(Clone)]
pub(crate) struct At(Arc<Mutex<Progress>>);

struct Progress {
    place: String,
    /// Waited for in vain: the place is among the stuck ones until the work is done.
    given_up: bool,
    done: bool,
}

impl At {
    /// The next call goes to this place.
    pub(crate) fn place(&self, place: &str) {
        let mut progress = lock(&self.0);
        if !progress.given_up {
            place.clone_into(&mut progress.place);
        }
    }
}

/// Takes the place from the stuck ones when the work is done, also by a panic.
struct Done(At, Stuck);

impl Drop for Done {
    fn drop(&mut self) {
        let mut progress = lock(&self.0.0);
        progress.done = true;
        if progress.given_up {
            let mut stuck = lock(&self.1);
            if let Some(count) = stuck.get_mut(&progress.place) {
                *count -= 1;
                if *count == 0 {
                    stuck.remove(&progress.place);
                }
            }
        }
    }
}

/// The threads for such work.
#[derive(Clone)]
pub(crate) struct Foreign {
    pool: Pool,
    stuck: Stuck,
    patience: Duration,
}

impl Default for Foreign {
    fn default() -> Self {
        Self { pool: Pool::new(THREADS), stuck: Stuck::default(), patience: PATIENCE }
    }
}

fn no_answer(place: &str) -> Error {
    Error::unavailable(format!(
        "{place} does not answer: its file system hangs. See to its server or unmount it by force, then try again"
    ))
}

impl Foreign {
    /// Does the work, which may touch these places, and waits for it as long as is reasonable.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        places: &[&str],
        work: impl FnOnce(&At) -> T + Send + 'static,
    ) -> Result<T> {
        {
            let stuck = lock(&self.stuck);
            if let Some(place) = places.iter().find(|place| stuck.contains_key(**place)) {
                return Err(no_answer(place));
            }
        }
        let first = places.first().copied().unwrap_or("the host's file system").to_owned();
        let at = At(Arc::new(Mutex::new(Progress { place: first, given_up: false, done: false })));
        let (inside, stuck) = (at.clone(), Arc::clone(&self.stuck));
        let answer = self.pool.start(move || {
            let _done = Done(inside.clone(), stuck);
            work(&inside)
        });
        tokio::pin!(answer);
        if let Ok(answer) = tokio::time::timeout(self.patience, &mut answer).await {
            return answer;
        }
        let place = {
            let mut progress = lock(&at.0);
            if progress.done {
                None
            } else {
                progress.given_up = true;
                *lock(&self.stuck).entry(progress.place.clone()).or_default() += 1;
                Some(progress.place.clone())
            }
        };
        match place {
            Some(place) => Err(no_answer(&place)),
            None => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn impatient() -> Foreign {
        Foreign { patience: Duration::from_millis(30), ..Foreign::default() }
    }

    #[tokio::test]
    async fn a_place_that_hangs_costs_one_thread_and_nobody_else() {
        let foreign = impatient();
        let (release, wait) = mpsc::channel::<()>();
        let hung = foreign
            .run(&["/a", "/b"], move |at| {
                at.place("/b");
                let _ = wait.recv();
            })
            .await
            .unwrap_err();
        assert!(hung.message.starts_with("/b does not answer"), "{}", hung.message);
        // The next one is told at once, without a thread.
        let ran = Arc::new(Mutex::new(false));
        let mark = Arc::clone(&ran);
        let again = foreign.run(&["/c", "/b"], move |_| *lock(&mark) = true).await;
        assert!(again.is_err() && !*lock(&ran));
        assert_eq!(foreign.run(&["/a"], |_| 1).await.unwrap(), 1, "other places answer");
        drop(release);
        for _ in 0..200 {
            if foreign.run(&["/b"], |_| ()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("a place that answers again is still said to hang");
    }

    #[tokio::test]
    async fn a_panic_ends_the_work() {
        // Telling of a panic takes longer than impatience allows.
        let foreign = Foreign::default();
        assert!(foreign.run(&["/p"], |_| panic!("on purpose")).await.map(|(): ()| ()).is_err());
        assert!(foreign.run(&["/p"], |_| ()).await.is_ok());
    }
}
