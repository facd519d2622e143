// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random changes of the model, compared with a picture that is painted page by
//! page.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_slots::Vm;
use kvm_slots::dirty::DirtyClient;
use own_model::guest::Seen;
use own_model::{Bytes, Model, Region, What, page_size};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::hosts::{Host, Machine, region};

/// The address and number of the pages at which regions may be.
const BASE: u64 = 0x40_0000;
const WORLD: u64 = 40;
/// The number of pages of each memory.
const PAGES: u64 = 12;
/// The number of memories. The last one is a device's registers.
const MEMORIES: usize = 4;

#[derive(Clone, Debug)]
enum Edit {
    Add {
        memory: usize,
        kind: Kind,
        at: u64,
        start: u64,
        pages: u64,
        priority: u8,
        logged: bool,
    },
    /// These choose a region by a number of any size.
    Remove(usize),
    Move(usize, u64),
    Priority(usize, u8),
    Log(usize, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ram,
    Rom,
    Trapped,
}

/// One step: the edits of one change, whether the hypervisor agrees, and what
/// the guest stores afterwards.
#[derive(Clone, Debug)]
struct Step {
    edits: Vec<Edit>,
    agrees: bool,
    stores: Vec<(u64, u8)>,
}

fn edit() -> impl Strategy<Value = Edit> {
    let kind = prop_oneof![3 => Just(Kind::Ram), 1 => Just(Kind::Rom), 1 => Just(Kind::Trapped)];
    let place = (0..WORLD - PAGES, 0..PAGES, 1..=PAGES, 0..4_u8);
    let add =
        (0..MEMORIES, kind, place, any::<bool>()).prop_map(|(memory, kind, place, logged)| {
            let (at, start, pages, priority) = place;
            Edit::Add {
                memory,
                kind,
                at,
                start,
                pages: pages.min(PAGES - start),
                priority,
                logged,
            }
        });
    prop_oneof![
        3 => add,
        1 => any::<usize>().prop_map(Edit::Remove),
        2 => (any::<usize>(), 0..WORLD - PAGES).prop_map(|(n, at)| Edit::Move(n, at)),
        1 => (any::<usize>(), 0..4_u8).prop_map(|(n, priority)| Edit::Priority(n, priority)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, on)| Edit::Log(n, on)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stores = vec((0..WORLD, any::<u8>()), 0..6);
    (vec(edit(), 1..4), prop::bool::weighted(0.9), stores).prop_map(|(edits, agrees, stores)| {
        Step {
            edits,
            agrees,
            stores,
        }
    })
}

pub fn random_changes_match_a_painted_model<V: Host>(machine: Machine<V>) {
    // The one VM starts each case empty.
    let machine = RefCell::new(machine);
    let cases = match machine.borrow().vmm.vm().memslots() {
        Some(_) => 300,
        None => 60,
    };
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&vec(step(), 1..10), |steps| {
        let machine = &mut *machine.borrow_mut();
        let code = machine.code.clone();
        machine.change(|model| model.regions = code);
        let mut world = World::new(machine);
        for step in steps {
            world.take(&step)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The machine, and its expected state.
struct World<'a, V: Vm> {
    machine: &'a mut Machine<V>,
    memories: Vec<Arc<Bytes>>,
    registers: Option<Arc<OwnedFd>>,
    /// The regions in order, without the guest's code.
    regions: Vec<Region>,
    /// The first byte of each page of each memory.
    bytes: BTreeMap<(usize, u64), u8>,
    client: DirtyClient,
    /// The host addresses of pages that were written since the last check.
    written: BTreeSet<u64>,
}

impl<'a, V: Host> World<'a, V> {
    fn new(machine: &'a mut Machine<V>) -> Self {
        let size = PAGES * page_size();
        let memories = (0..MEMORIES).map(|_| Bytes::zeros(size).expect("memory"));
        let memories: Vec<_> = memories.collect();
        let registers = machine.vmm.vm().registers(size).map(Arc::new);
        let mut bytes = BTreeMap::new();
        for (memory, host) in memories.iter().enumerate() {
            for page in 0..PAGES {
                let byte = u8::try_from(memory as u64 * PAGES + page + 1).expect("a few");
                bytes.insert((memory, page), byte);
                match &registers {
                    Some(file) if memory == MEMORIES - 1 => {
                        let file = File::from(file.try_clone().expect("a descriptor"));
                        file.write_all_at(&[byte], page * page_size())
                            .expect("in it");
                    }
                    _ => host.set(page * page_size(), byte).expect("in it"),
                }
            }
        }
        Self {
            client: machine.vmm.collector().tracker().client(),
            machine,
            memories,
            registers,
            regions: Vec::new(),
            bytes,
            written: BTreeSet::new(),
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let mut regions = self.regions.clone();
        for edit in &step.edits {
            self.edit(&mut regions, edit);
        }
        let code = self.machine.code.clone();
        let all = code.into_iter().chain(regions.iter().cloned()).collect();
        let (edit, agrees) = (|model: &mut Model| model.regions = all, || step.agrees);
        let changed = self.machine.vmm.change_if(edit, agrees);
        prop_assert_eq!(changed.is_ok(), step.agrees, "{:?}", changed);
        if step.agrees {
            self.regions = regions;
        }
        self.is_as_painted()?;
        for &(page, byte) in &step.stores {
            self.store(page, byte)?;
        }
        self.gets_what_was_written()
    }

    fn edit(&self, regions: &mut Vec<Region>, edit: &Edit) {
        if let Edit::Add {
            memory,
            kind,
            at,
            start,
            pages,
            priority,
            logged,
        } = *edit
        {
            let is_file = memory == MEMORIES - 1;
            let what = match (kind, &self.registers) {
                (Kind::Trapped, _) => What::Trapped,
                (_, Some(file)) if is_file => What::PrivateRegisters(file.clone()),
                (Kind::Ram, _) => What::Ram(self.memories[memory].clone()),
                (Kind::Rom, _) => What::Rom(self.memories[memory].clone()),
            };
            let name = u32::try_from(memory).expect("a few");
            regions.push(Region {
                priority,
                start: start * page_size(),
                logged: logged && matches!(what, What::Ram(_)),
                ..region(name, BASE + at * page_size(), pages, what)
            });
            return;
        }
        let Some(count) = std::num::NonZeroUsize::new(regions.len()) else {
            return;
        };
        match *edit {
            Edit::Remove(n) => drop(regions.remove(n % count)),
            Edit::Move(n, at) => regions[n % count].gpa = BASE + at * page_size(),
            Edit::Priority(n, priority) => regions[n % count].priority = priority,
            Edit::Log(n, on) => {
                let region = &mut regions[n % count];
                region.logged = on && matches!(region.what, What::Ram(_));
            }
            Edit::Add { .. } => {}
        }
    }

    /// For each page, the number of the visible region and the page in its
    /// memory. Low priorities are painted first, and painted over.
    fn paint(&self) -> Vec<Option<(usize, u64)>> {
        let mut picture = vec![None; usize::try_from(WORLD).expect("a few")];
        for priority in 0..=u8::MAX {
            for (number, region) in self.regions.iter().enumerate() {
                if region.priority != priority {
                    continue;
                }
                for page in 0..region.size / page_size() {
                    let at = (region.gpa - BASE) / page_size() + page;
                    let at = usize::try_from(at).expect("in the world");
                    picture[at] = Some((number, region.start / page_size() + page));
                }
            }
        }
        picture
    }

    fn is_as_painted(&mut self) -> Result<(), TestCaseError> {
        let picture = self.paint();
        let (mut slots, mut runs, mut last) = (BTreeMap::new(), 0, None);
        for (gpa, painted) in (0..).map(|n| BASE + n * page_size()).zip(&picture) {
            let direct = painted.filter(|(n, _)| !matches!(self.regions[*n].what, What::Trapped));
            let number = direct.map(|(number, _)| number);
            runs += usize::from(number.is_some() && number != last);
            last = number;
            let seen = match direct {
                Some((number, page)) => {
                    let region = &self.regions[number];
                    slots.insert(gpa, key(region, page));
                    Seen::Direct(self.bytes[&(region.name as usize, page)])
                }
                None => Seen::Exit,
            };
            prop_assert_eq!(self.machine.guest.load(gpa), seen, "at {:#x}", gpa);
        }
        let vmm = &self.machine.vmm;
        prop_assert_eq!(vmm.slots().table().len(), runs + self.machine.code.len());
        let again = vmm.slots().plan(&vmm.model().shows()).expect("a plan");
        prop_assert_eq!(again.ops(), []);
        let Some(memslots) = vmm.vm().memslots() else {
            return Ok(());
        };
        prop_assert_eq!(memslots.len(), runs);
        let mut found = BTreeMap::new();
        for slot in memslots {
            for offset in (0..slot.size / page_size()).map(|n| n * page_size()) {
                let address = match slot.file_offset {
                    Some(file) => (None, Some(file + offset)),
                    None => (Some(slot.userspace_addr + offset), None),
                };
                // Logging and read-only. The bit above them is the profile's.
                let twice = found.insert(slot.gpa + offset, (address, slot.flags & 3));
                prop_assert_eq!(twice, None);
            }
        }
        prop_assert_eq!(found, slots);
        Ok(())
    }

    fn store(&mut self, page: u64, byte: u8) -> Result<(), TestCaseError> {
        let painted = self.paint()[usize::try_from(page).expect("in the world")];
        let shows = painted.map(|(number, page)| (&self.regions[number], page));
        let seen = match shows {
            None => Seen::Exit,
            Some((region, page)) => match &region.what {
                What::Trapped | What::Rom(_) => Seen::Exit,
                _ => {
                    let memory = region.name as usize;
                    self.bytes.insert((memory, page), byte);
                    if region.logged {
                        let host = self.memories[memory].address();
                        self.written.insert(host + page * page_size());
                    }
                    Seen::Direct(byte)
                }
            },
        };
        let gpa = BASE + page * page_size();
        prop_assert_eq!(self.machine.guest.store(gpa, byte), seen, "at {:#x}", gpa);
        Ok(())
    }

    fn gets_what_was_written(&mut self) -> Result<(), TestCaseError> {
        let collected = self.machine.vmm.collect();
        prop_assert_eq!(collected, Ok(()));
        let reported = self.client.take_all();
        let written = std::mem::take(&mut self.written);
        prop_assert!(
            written.iter().all(|page| reported.contains(*page)),
            "{:x?}",
            written
        );
        // A processor may map a page as writable on a load, and KVM counts that
        // as a write.
        if self.machine.vmm.vm().memslots().is_some() {
            prop_assert_eq!(reported.len(), written.len() as u64);
        }
        Ok(())
    }
}

/// The expected slot of a page: host address, offset in the file, and flags.
fn key(region: &Region, page: u64) -> ((Option<u64>, Option<u64>), u32) {
    let offset = page * page_size();
    match &region.what {
        What::Ram(bytes) => {
            let host = Some(bytes.address() + offset);
            ((host, None), u32::from(region.logged))
        }
        What::Rom(bytes) => ((Some(bytes.address() + offset), None), 2),
        _ => ((None, Some(offset)), 0),
    }
}
