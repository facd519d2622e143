// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that read while another one commits, with the real `arc-swap`. The machine
//! determines the interleavings, or Miri, which tries many schedules and detects data
//! races. The small sizes are for Miri. Chosen interleavings are in `swap/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use memory_model::{FlatView, MemoryModel, Region, RegionId, SpaceId, ThreadReader, ViewReader};

const CHANGES: u64 = if cfg!(miri) { 3 } else { 2000 };
const READERS: usize = 2;

const PAGE: u64 = 0x1000;

/// The stamp's generation; it counts those that are alive.
#[derive(Debug)]
struct Stamp {
    generation: u64,
    alive: Arc<AtomicUsize>,
}

impl Stamp {
    fn region(generation: u64, alive: &Arc<AtomicUsize>) -> Region<Option<Self>> {
        alive.fetch_add(1, Ordering::Relaxed);
        let alive = alive.clone();
        Region::mmio("stamp", PAGE.into()).with_handle(Some(Self { generation, alive }))
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Two regions that move on with each generation, one up and one down, and a
/// stamp between them that tells the generation and is another region each time.
struct Machine {
    model: MemoryModel<Option<Stamp>>,
    space: SpaceId,
    root: RegionId,
    movers: [RegionId; 2],
    stamp: RegionId,
    alive: Arc<AtomicUsize>,
}

const STAMP_AT: u64 = 1 << 32;

fn movers_at(generation: u64) -> [u64; 2] {
    let distance = (generation + 1) * PAGE;
    [STAMP_AT - distance, STAMP_AT + distance]
}

impl Machine {
    fn new() -> Self {
        let alive = Arc::default();
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = Region::container("root", 1 << 64).with_handle(None);
        let root = t.add(root).unwrap();
        let mut put = |region, at| {
            let id = t.add(region).unwrap();
            t.place(id, root, at, 0).unwrap();
            id
        };
        let [down, up] = movers_at(0);
        let mover = |name| Region::mmio(name, PAGE.into()).with_handle(None);
        let movers = [put(mover("down"), down), put(mover("up"), up)];
        let stamp = put(Stamp::region(0, &alive), STAMP_AT);
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        Self {
            model,
            space,
            root,
            movers,
            stamp,
            alive,
        }
    }

    fn change_to(&mut self, generation: u64) {
        let mut t = self.model.transaction();
        for (mover, at) in self.movers.into_iter().zip(movers_at(generation)) {
            t.move_to(mover, at).unwrap();
        }
        t.unplace(self.stamp).unwrap();
        t.remove(self.stamp).unwrap();
        self.stamp = t.add(Stamp::region(generation, &self.alive)).unwrap();
        t.place(self.stamp, self.root, STAMP_AT, 0).unwrap();
        t.commit().unwrap();
    }
}

/// The generation of a view, all of which has to be of that generation.
fn generation(view: &FlatView<Option<Stamp>>) -> u64 {
    let stamp = view.find(STAMP_AT).expect("there is always a stamp");
    let stamp = stamp.region().handle().as_ref();
    let generation = stamp.expect("the stamp has a handle").generation;
    let [down, up] = movers_at(generation);
    let starts = view.ranges().map(|run| run.range().start());
    assert!(starts.eq([down, STAMP_AT, up]), "half of {generation}");
    generation
}

/// Looks in one of the three ways.
fn look(
    way: usize,
    reader: &ViewReader<Option<Stamp>>,
    kept: &mut ThreadReader<Option<Stamp>>,
) -> u64 {
    match way % 3 {
        0 => generation(kept.view()),
        1 => generation(&reader.view()),
        _ => generation(&reader.snapshot()),
    }
}

#[test]
fn threads_see_whole_views_in_order_and_keep_nothing() {
    let mut m = Machine::new();
    // The latest generation of which its maker knows that it can be seen.
    let published = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (reader, published) = (m.model.reader(m.space), &published);
            scope.spawn(move || {
                let mut kept = reader.for_thread();
                let (mut newest, mut way) = (0, 0);
                while newest < CHANGES {
                    newest = newest.max(published.load(Ordering::Acquire));
                    let now = look(way, &reader, &mut kept);
                    assert!(now >= newest, "{now} after {newest}");
                    (newest, way) = (now, way + 1);
                }
            });
        }
        for next in 1..=CHANGES {
            m.change_to(next);
            published.store(next, Ordering::Release);
        }
    });
    assert_eq!(generation(&m.model.view(m.space)), CHANGES);
    let alive = m.alive.clone();
    assert_eq!(alive.load(Ordering::Relaxed), 1, "an old view is kept");
    drop(m);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the last view is kept");
}

#[test]
fn the_last_to_let_go_of_a_view_may_be_any_thread() {
    let mut m = Machine::new();
    let reader = m.model.reader(m.space);
    let (mut kept, snapshot) = (reader.for_thread(), reader.snapshot());
    let alive = m.alive.clone();
    let elsewhere = thread::spawn(move || {
        let before = [generation(kept.view()), generation(&snapshot)];
        drop((reader, kept, snapshot));
        before
    });
    m.change_to(1);
    drop(m);
    let [newest, kept] = elsewhere.join().unwrap();
    assert!(newest <= 1 && kept == 0);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "a view is kept");
}

#[test]
fn what_is_removed_lives_no_longer_than_the_views_that_are_read() {
    let mut m = Machine::new();
    let alive = m.alive.clone();
    let reader = m.model.reader(m.space);
    let mut held = Vec::new();
    for n in 1..=20 {
        // Views that a reader holds while they are replaced.
        held.push(reader.snapshot());
        let mut t = m.model.transaction();
        t.move_to(m.movers[0], STAMP_AT - (n + 1) * PAGE).unwrap();
        t.commit().unwrap();
    }
    let mut t = m.model.transaction();
    t.unplace(m.stamp).unwrap();
    t.remove(m.stamp).unwrap();
    t.commit().unwrap();
    assert_eq!(alive.load(Ordering::Relaxed), 1, "it is still read");
    drop(held);
    // Nothing is committed in between.
    assert_eq!(alive.load(Ordering::Relaxed), 0, "a view is kept");
}

#[test]
fn a_space_being_removed_is_whole_or_empty_and_then_stays_empty() {
    let mut m = Machine::new();
    let (alive, space) = (m.alive.clone(), m.space);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let reader = m.model.reader(space);
            scope.spawn(move || {
                let mut kept = reader.for_thread();
                loop {
                    match kept.view() {
                        view if view.is_empty() => break,
                        view => generation(view),
                    };
                }
                assert!(reader.view().is_empty() && reader.snapshot().is_empty());
            });
        }
        for next in 1..=CHANGES / 3 {
            m.change_to(next);
        }
        m.model.remove_space(space).unwrap();
    });
    let mut t = m.model.transaction();
    t.unplace(m.stamp).unwrap();
    t.remove(m.stamp).unwrap();
    t.commit().unwrap();
    assert_eq!(alive.load(Ordering::Relaxed), 0, "a view is kept");
}
