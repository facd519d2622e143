// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model of which each view says whether it is whole, and how old it is.

use std::sync::{Arc, Mutex};

use arc_swap::scheduling_point;
use scheduled_model::{
    AddrRange, CommitError, FileSlice, FlatView, MemoryModel, PrivateMmio, Region, RegionId,
    SpaceId,
};

const PAGE: u64 = 0x1000;
/// Where the two BARs are in turn.
const BARS_AT: [u64; 2] = [0x10_0000, 0x20_0000];
const STAMP_AT: u64 = 0x30_0000;

/// Only the stamp has one.
pub type Handle = Option<Stamp>;

/// The generations whose stamps were dropped.
pub type Dropped = Arc<Mutex<Vec<u64>>>;

/// What the region owns that tells the view's generation.
#[derive(Debug)]
pub struct Stamp {
    generation: u64,
    dropped: Dropped,
}

impl Drop for Stamp {
    fn drop(&mut self) {
        scheduling_point();
        self.dropped.lock().unwrap().push(self.generation);
        scheduling_point();
    }
}

/// Two BARs that change places, and a stamp, which is another region each time.
pub struct Machine {
    pub model: MemoryModel<Handle>,
    pub space: SpaceId,
    pub root: RegionId,
    pub dropped: Dropped,
    generation: u64,
    bars: [RegionId; 2],
    stamp: RegionId,
}

impl Machine {
    /// At generation 0.
    pub fn new() -> Self {
        let dropped = Dropped::default();
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = Region::container("root", 1 << 64).with_handle(None);
        let root = t.add(root).unwrap();
        let mut put = |region: Region<Handle>, at| {
            let id = t.add(region).unwrap();
            t.place(id, root, at, 0).unwrap();
            id
        };
        let bars = ["a", "b"].map(private_mmio);
        let mut places = BARS_AT.into_iter();
        let bars = bars.map(|bar| put(bar, places.next().unwrap()));
        let stamp = put(stamp(0, &dropped), STAMP_AT);
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        Self {
            model,
            space,
            root,
            dropped,
            generation: 0,
            bars,
            stamp,
        }
    }

    /// Makes the next generation, in one transaction.
    pub fn change(&mut self) -> Result<(), CommitError> {
        let next = self.generation + 1;
        let mut t = self.model.transaction();
        for (bar, at) in self.bars.into_iter().zip(bars_at(next)) {
            t.move_to(bar, at).unwrap();
        }
        t.unplace(self.stamp).unwrap();
        t.remove(self.stamp).unwrap();
        let stamp = t.add(stamp(next, &self.dropped)).unwrap();
        t.place(stamp, self.root, STAMP_AT, 0).unwrap();
        t.commit()?;
        (self.generation, self.stamp) = (next, stamp);
        Ok(())
    }

    /// The guest accepts one of the BARs where it is.
    pub fn accept_a_bar(&mut self) {
        let range = AddrRange::new(BARS_AT[0], PAGE.into()).unwrap();
        self.model.accept(self.space, range).unwrap();
    }
}

/// The generation of a view, all of which has to be of that generation.
pub fn generation(view: &FlatView<Handle>) -> u64 {
    let stamp = view.find(STAMP_AT).expect("there is always a stamp");
    let stamp = stamp.region().handle().as_ref();
    let generation = stamp.expect("the stamp has a handle").generation;
    let [a, b] = bars_at(generation);
    let mut expected = [(a, "a"), (b, "b"), (STAMP_AT, "stamp")];
    expected.sort_unstable();
    let runs = view.ranges();
    let found: Vec<_> = runs
        .map(|run| (run.range().start(), run.region().name()))
        .collect();
    assert_eq!(found, expected, "half of generation {generation}");
    generation
}

fn bars_at(generation: u64) -> [u64; 2] {
    let [low, high] = BARS_AT;
    match generation % 2 {
        0 => [low, high],
        _ => [high, low],
    }
}

fn private_mmio(name: &str) -> Region<Handle> {
    let file = FileSlice::new(Arc::new(std::io::stdin()), 0, PAGE).unwrap();
    Region::private_mmio(name, PrivateMmio::new(file)).with_handle(None)
}

fn stamp(generation: u64, dropped: &Dropped) -> Region<Handle> {
    let dropped = dropped.clone();
    let stamp = Stamp {
        generation,
        dropped,
    };
    Region::mmio("stamp", PAGE.into()).with_handle(Some(stamp))
}
