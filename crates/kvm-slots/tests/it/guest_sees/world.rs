// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small world: some regions that move between any places.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_slots::SlotListener;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use memory_model::{
    CommitError, FileSlice, HostMemory, Memory, MemoryModel, PrivateMmio, Region, RegionId, SpaceId,
};

use super::commit::{Commit, LooksUp};
use super::observer::{ACCESSES, Exits, NOTHING, Observer, PAGES, Point, stamp, things};
use super::stepped::{Fails, Other, Stepped};
use crate::common::pages::Pages;
use crate::common::{ABI, PAGE};

/// The regions of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Ram(u64),
    Rom(u64),
    Mmio,
    PrivateMmio,
}

/// Where each region is: at a page, or nowhere.
pub type State = Vec<Option<u64>>;

/// The results of all commits of a world.
#[derive(Debug, Default)]
pub struct Tally {
    pub commits: usize,
    pub refused: usize,
    pub interleavings: usize,
}

pub struct World {
    pub model: MemoryModel<u64>,
    pub space: SpaceId,
    pub root: RegionId,
    pub regions: Vec<RegionId>,
    pub stepped: Stepped,
    pub others: [Arc<Other>; 2],
    pub looks_up: LooksUp,
    pub _registers: OwnedFd,
}

impl World {
    pub fn new(whats: &[What]) -> Self {
        let vm = SimVm::new(SimConfig {
            abi: ABI,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let registers = vm.create_dma_buf(PAGE).unwrap();
        let mut memory = Vec::new();
        let mut model = MemoryModel::<u64>::new();
        let mut t = model.transaction();
        let root = Region::container("memory", 1 << 64).with_handle(NOTHING);
        let root = t.add(root).unwrap();
        let mut regions = Vec::new();
        for (n, what) in whats.iter().enumerate() {
            let mut ram = |pages: u64| {
                let bytes = usize::try_from(pages * PAGE).unwrap();
                let map = Arc::new(Pages::new(bytes));
                for page in 0..pages {
                    let at = usize::try_from(page * PAGE).unwrap();
                    map.write(at, &stamp(n, page).to_le_bytes());
                }
                memory.push(map.clone());
                // SAFETY: only the simulated KVM accesses it, by copies that can fail.
                let host = unsafe { HostMemory::new(map.address(), map.size(), map) }.unwrap();
                Memory::host_only(host)
            };
            let name = format!("{n}");
            let region = match *what {
                What::Ram(pages) => Region::ram(&name, ram(pages)),
                What::Rom(pages) => Region::rom(&name, ram(pages)),
                What::Mmio => Region::mmio(&name, PAGE.into()),
                What::PrivateMmio => {
                    // SAFETY: the world keeps the file open.
                    let file = unsafe {
                        FileSlice::from_raw_fd(registers.as_raw_fd(), 0, PAGE, Arc::new(()))
                    };
                    Region::private_mmio(&name, PrivateMmio::new(file.unwrap()))
                }
            };
            regions.push(t.add(region.with_handle(stamp(n, 0))).unwrap());
        }
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let observer = Arc::new(Observer {
            vm,
            memory,
            reader: Mutex::default(),
            held: AtomicBool::new(false),
            points: Mutex::default(),
        });
        let stepped = Stepped {
            observer: observer.clone(),
            fails: Arc::default(),
        };
        // SAFETY: the host addresses are mappings of their own, whose owners
        // ride on the regions, and there are no references to their bytes.
        let slots = unsafe { kvm_slots::Slots::new(stepped.clone(), ABI) };
        let slots = SlotListener::new(slots, stepped.clone());
        let others = [(); 2].map(|()| {
            Arc::new(Other {
                observer: observer.clone(),
                refuses: AtomicBool::new(false),
                refuses_to_apply: AtomicBool::new(false),
                target: Mutex::default(),
            })
        });
        let [first, last] = others.clone();
        model.add_listener(space, -1, first).unwrap();
        model.add_listener(space, 0, Arc::new(slots)).unwrap();
        model.add_listener(space, 1, last).unwrap();
        let mut world = Self {
            model,
            space,
            root,
            regions,
            stepped,
            others,
            looks_up: match whats.contains(&What::PrivateMmio) {
                true => LooksUp::BeforeAHold,
                false => LooksUp::Late,
            },
            _registers: registers,
        };
        if let Some(n) = whats.iter().position(|what| *what == What::PrivateMmio) {
            // Only the guest can stamp it.
            let mut alone = vec![None; whats.len()];
            alone[n] = Some(0);
            world.go(&vec![None; whats.len()], &alone);
            let stamp = stamp(n, 0).to_le_bytes();
            let vm = &world.stepped.observer.vm;
            vm.guest_store(0, &stamp, &mut Exits(false)).unwrap();
            world.go(&alone, &vec![None; whats.len()]);
        }
        world
    }

    /// Goes from one state to another, and nothing fails.
    pub fn go(&mut self, from: &State, to: &State) {
        self.fail(None);
        self.try_to_go(from, to).unwrap();
    }

    pub fn fail(&self, fail: Option<Fail>) {
        *self.stepped.fails.lock().unwrap() = Fails {
            at: match fail {
                Some(Fail::Call(call)) => Some(call),
                _ => None,
            },
            calls: 0,
        };
        for (n, other) in self.others.iter().enumerate() {
            let refuses = fail == Some(Fail::Other(n));
            other.refuses.store(refuses, Ordering::SeqCst);
            // The one that applies before the slots do.
            let refuses = fail == Some(Fail::Apply) && n == 1;
            other.refuses_to_apply.store(refuses, Ordering::SeqCst);
        }
    }

    pub fn try_to_go(&mut self, from: &State, to: &State) -> Result<(), CommitError> {
        let mut t = self.model.transaction();
        for (n, id) in self.regions.iter().enumerate() {
            match (from[n], to[n]) {
                (None, Some(page)) => {
                    let priority = i32::try_from(n).unwrap();
                    t.place(*id, self.root, page * PAGE, priority).unwrap();
                }
                (Some(_), Some(page)) => t.move_to(*id, page * PAGE).unwrap(),
                (Some(_), None) => t.unplace(*id).unwrap(),
                (None, None) => {}
            }
        }
        t.commit()
    }

    /// Goes from one state to another while one call fails, or another
    /// listener refuses; whether there was such a call.
    pub fn watch(
        &mut self,
        from: &State,
        to: &State,
        fail: Option<Fail>,
        tally: &mut Tally,
    ) -> bool {
        self.fail(fail);
        let old = self.model.view(self.space);
        *self.others[0].target.lock().unwrap() = None;
        let (result, points) = self.observe(from, to);
        let target = self.others[0].target.lock().unwrap().take();
        let new = self.model.view(self.space);
        let commit = Commit {
            old: &old,
            target: &target.unwrap_or_else(|| things(&old)),
            new: &new,
            points: &points,
            looks_up: self.looks_up,
        };
        if result.is_ok() {
            commit.holds_until_published();
        }
        tally.commits += 1;
        tally.refused += usize::from(result.is_err());
        for page in 0..PAGES {
            for access in ACCESSES {
                match commit.check(page, access) {
                    Ok(checked) => tally.interleavings += checked,
                    Err(why) => panic!("{from:?} to {to:?}, {fail:?}: {access:?} {page}: {why}"),
                }
            }
        }
        result.is_err()
    }

    /// Commits the change from one state to another. Returns the result, and everything
    /// that could be seen meanwhile.
    pub fn observe(&mut self, from: &State, to: &State) -> (Result<(), CommitError>, Vec<Point>) {
        let observer = self.stepped.observer.clone();
        *observer.reader.lock().unwrap() = Some(self.model.reader(self.space));
        observer.look();
        let result = self.try_to_go(from, to);
        observer.look();
        *observer.reader.lock().unwrap() = None;
        let points = std::mem::take(&mut *observer.points.lock().unwrap());
        (result, points)
    }
}

/// Why a commit is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    Call(usize),
    /// Another listener, in `prepare`.
    Other(usize),
    /// The listener after the slots, in `apply`.
    Apply,
}
