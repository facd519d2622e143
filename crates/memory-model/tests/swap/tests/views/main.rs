// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What readers on other threads see of changes, whichever thread goes on when.
//!
//! `memory-model` is compiled here from the same source with a stand-in for
//! `arc-swap`, and `shuttle` chooses which thread goes on at each load and store
//! of a view, and wherever the crate calls its user: in a listener's `prepare`,
//! `commit` and `abort`, between a reader's calls, and when a handle is dropped.
//! Small scenarios run in every interleaving, large ones in some hundred, the
//! same each time.
//!
//! Not covered here:
//!
//! - `arc-swap` itself and the weak order of memory accesses: `shuttle` runs one
//!   step after the other. `readers/threads.rs` of memory-model's tests has
//!   real threads on the real `arc-swap`, and `cargo xtask miri` runs it with many
//!   schedules.
//! - Which pages are private or accepted is in no view, and to be read only where
//!   no change is being made (`&MemoryModel`). What shows of it is a refused
//!   change, which is here.
//! - Two address spaces are two views. Each is whole, but they are published one
//!   after the other: a thread that reads both can find one of them newer.

mod explore;
mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use arc_swap::scheduling_point;
use explore::{Seen, Size, all_generations, explore};
use machine::{Dropped, Handle, Machine, generation};
use scheduled_model::{CommitError, Listener, ListenerError, ThreadReader, Update, ViewReader};
use shuttle::thread::{JoinHandle, spawn};

/// Looks at the current view in each of the three ways in turn.
struct Looker {
    reader: ViewReader<Handle>,
    of_thread: ThreadReader<Handle>,
    looks: usize,
    seen: Seen,
}

impl Looker {
    fn new(reader: ViewReader<Handle>, seen: &Seen) -> Self {
        let of_thread = reader.for_thread();
        let seen = seen.clone();
        Self {
            reader,
            of_thread,
            looks: 0,
            seen,
        }
    }

    /// The generation of the view as it is now.
    fn look(&mut self) -> u64 {
        self.looks += 1;
        let found = match self.looks % 3 {
            0 => generation(&self.reader.snapshot()),
            1 => generation(self.of_thread.view()),
            _ => {
                let view = self.reader.view();
                let found = generation(&view);
                scheduling_point();
                assert_eq!(generation(&view), found, "a view changed in use");
                found
            }
        };
        self.seen.lock().unwrap().insert(found);
        found
    }
}

/// Threads that read, each with a looker of its own.
fn readers(
    m: &Machine,
    size: Size,
    seen: &Seen,
    read: impl Fn(Looker) + Clone + Send + 'static,
) -> Vec<JoinHandle<()>> {
    let start = |_| {
        let (reader, seen, read) = (m.model.reader(m.space), seen.clone(), read.clone());
        spawn(move || read(Looker::new(reader, &seen)))
    };
    (0..size.readers).map(start).collect()
}

/// A run ends with its first thread, so that one waits for the others.
fn wait_for(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_reader_never_sees_half_of_a_change() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        let threads = readers(&m, size, seen, move |mut looker| {
            for _ in 0..size.looks {
                looker.look();
            }
        });
        for _ in 0..size.changes {
            m.change().unwrap();
        }
        wait_for(threads);
    });
    assert_eq!(seen, all_generations());
}

#[test]
fn no_view_is_seen_after_a_newer_one() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        // Not by the same reader, and not by another one either.
        let newest = Arc::new(AtomicU64::new(0));
        let threads = readers(&m, size, seen, move |mut looker| {
            for _ in 0..size.looks {
                let before = newest.load(SeqCst);
                let now = looker.look();
                assert!(now >= before, "{now} after {before}");
                newest.fetch_max(now, SeqCst);
            }
        });
        for _ in 0..size.changes {
            m.change().unwrap();
        }
        wait_for(threads);
    });
    assert_eq!(seen, all_generations());
}

/// How far a change has come.
#[derive(Default)]
struct Progress {
    /// The latest generation for which every listener has prepared.
    prepared: AtomicU64,
    /// The latest generation whose commit notified a listener.
    committed: AtomicU64,
    /// The last listener refuses.
    refuses: AtomicBool,
}

/// Looks at the view in each call.
struct Follower {
    reader: ViewReader<Handle>,
    progress: Arc<Progress>,
    is_last: bool,
}

impl Follower {
    fn expect(&self, expected: u64) {
        assert_eq!(generation(&self.reader.view()), expected);
    }
}

impl Listener<Handle> for Follower {
    fn name(&self) -> &str {
        "follower"
    }

    fn prepare(&self, update: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.expect(generation(update.old));
        if !self.is_last {
            return Ok(());
        }
        if self.progress.refuses.load(SeqCst) {
            return Err("refused".into());
        }
        self.progress.prepared.store(generation(update.new), SeqCst);
        Ok(())
    }

    fn commit(&self, update: &Update<'_, Handle>) {
        let new = generation(update.new);
        self.progress.committed.store(new, SeqCst);
        self.expect(new);
    }

    fn abort(&self, update: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.expect(generation(update.old));
        Ok(())
    }
}

/// A machine at generation 0 that two listeners follow.
fn followed() -> (Machine, Arc<Progress>) {
    let mut m = Machine::new();
    let progress = Arc::<Progress>::default();
    for is_last in [false, true] {
        let listener = Arc::new(Starting(Follower {
            reader: m.model.reader(m.space),
            progress: progress.clone(),
            is_last,
        }));
        m.model.add_listener(m.space, 0, listener).unwrap();
    }
    (m, progress)
}

/// Leaves out the first call, which comes from an empty view.
struct Starting(Follower);

impl Listener<Handle> for Starting {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn prepare(&self, update: &Update<'_, Handle>) -> Result<(), ListenerError> {
        match update.old.is_empty() {
            true => Ok(()),
            false => self.0.prepare(update),
        }
    }

    fn commit(&self, update: &Update<'_, Handle>) {
        if !update.old.is_empty() {
            self.0.commit(update);
        }
    }

    fn abort(&self, update: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.0.abort(update)
    }
}

#[test]
fn a_view_is_seen_once_all_have_prepared_and_before_any_hears_of_the_commit() {
    let seen = explore(|size, seen| {
        let (mut m, progress) = followed();
        let threads = readers(&m, size, seen, move |mut looker| {
            for _ in 0..size.looks {
                let committed = progress.committed.load(SeqCst);
                let now = looker.look();
                assert!(now >= committed, "{now}, but {committed} is committed");
                let prepared = progress.prepared.load(SeqCst);
                assert!(now <= prepared, "{now}, but only {prepared} is prepared");
            }
        });
        for _ in 0..size.changes {
            m.change().unwrap();
        }
        wait_for(threads);
    });
    assert_eq!(seen, all_generations());
}

#[test]
fn nothing_is_ever_seen_of_a_change_that_a_listener_refuses() {
    let seen = explore(|size, seen| {
        let (mut m, progress) = followed();
        progress.refuses.store(true, SeqCst);
        let threads = readers(&m, size, seen, move |mut looker| {
            for _ in 0..size.looks {
                assert_eq!(looker.look(), 0);
            }
        });
        for _ in 0..size.changes {
            let refused = m.change();
            assert!(matches!(refused, Err(CommitError::Refused { .. })));
        }
        wait_for(threads);
    });
    assert_eq!(seen, [[0], [0]]);
}

#[test]
fn nothing_is_ever_seen_of_a_change_of_what_the_guest_has_accepted() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        m.accept_a_bar();
        let threads = readers(&m, size, seen, move |mut looker| {
            for _ in 0..size.looks {
                assert_eq!(looker.look(), 0);
            }
        });
        for _ in 0..size.changes {
            let refused = m.change();
            assert!(matches!(refused, Err(CommitError::Accepted { .. })));
        }
        wait_for(threads);
    });
    assert_eq!(seen, [[0], [0]]);
}

#[test]
fn a_reader_of_a_thread_sees_the_newest_view_at_its_next_call() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        let done = Arc::new(AtomicU64::new(0));
        let mut kept = m.model.reader(m.space).for_thread();
        assert_eq!(generation(kept.view()), 0);
        let (done_then, seen) = (done.clone(), seen.clone());
        let reader = spawn(move || {
            for _ in 0..size.looks {
                let done = done_then.load(SeqCst);
                let now = generation(kept.view());
                assert!(now >= done, "{now}, but {done} is done");
                seen.lock().unwrap().insert(now);
            }
            kept
        });
        for n in 1..=size.changes {
            m.change().unwrap();
            done.store(n, SeqCst);
        }
        let mut kept = reader.join().unwrap();
        assert_eq!(generation(kept.view()), size.changes);
    });
    assert_eq!(seen, all_generations());
}

#[test]
fn what_a_handle_owns_lives_until_the_last_reader_lets_go_and_no_longer() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        let dropped = m.dropped.clone();
        let threads: Vec<_> = (0..size.readers)
            .map(|_| keep_and_let_go(&m, size, seen))
            .collect();
        for _ in 0..size.changes {
            m.change().unwrap();
        }
        wait_for(threads);
        // Each once, in whatever order readers let go.
        assert_eq!(sorted(&dropped), (0..size.changes).collect::<Vec<_>>());
        let last = m.model.reader(m.space);
        drop(m);
        assert_eq!(generation(&last.view()), size.changes);
        assert!(!sorted(&dropped).contains(&size.changes));
        drop(last);
        assert_eq!(sorted(&dropped), (0..=size.changes).collect::<Vec<_>>());
    });
    assert_eq!(seen, all_generations());
}

/// A thread that keeps each view for a while, in each of the three ways.
fn keep_and_let_go(m: &Machine, size: Size, seen: &Seen) -> JoinHandle<()> {
    let (reader, dropped, seen) = (m.model.reader(m.space), m.dropped.clone(), seen.clone());
    spawn(move || {
        let mut of_thread = reader.for_thread();
        for look in 0..size.looks {
            let (guard, snapshot);
            let view = match look % 3 {
                0 => of_thread.view(),
                1 => {
                    guard = reader.view();
                    &*guard
                }
                _ => {
                    snapshot = reader.snapshot();
                    &*snapshot
                }
            };
            let kept = generation(view);
            scheduling_point();
            assert!(!sorted(&dropped).contains(&kept), "{kept} is in use");
            assert_eq!(generation(view), kept);
            seen.lock().unwrap().insert(kept);
        }
    })
}

fn sorted(dropped: &Dropped) -> Vec<u64> {
    let mut generations = dropped.lock().unwrap().clone();
    generations.sort_unstable();
    generations
}

#[test]
fn each_of_two_spaces_is_seen_whole() {
    let seen = explore(|size, seen| {
        let mut m = Machine::new();
        let second = m.model.add_space("second", m.root).unwrap();
        let (first, second) = (m.model.reader(m.space), m.model.reader(second));
        let seen = seen.clone();
        let threads = [spawn(move || {
            let mut newest = [0; 2];
            for _ in 0..size.looks {
                for (reader, newest) in [&first, &second].into_iter().zip(&mut newest) {
                    let now = generation(&reader.view());
                    assert!(now >= *newest, "{now} after {newest}");
                    *newest = now;
                    seen.lock().unwrap().insert(now);
                }
            }
        })];
        for _ in 0..size.changes {
            m.change().unwrap();
        }
        wait_for(threads);
    });
    assert_eq!(seen, all_generations());
}
