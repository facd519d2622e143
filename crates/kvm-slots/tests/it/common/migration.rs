// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small migration: a guest and a VMM that write, slots that change, and a copy that
//! must be equal in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_slots::dirty::{DirtyClient, DirtyCollector, DirtyMode};
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Capabilities, Errno, SlotBacking, SlotRange, Slots};
use proptest::prelude::*;

use super::guest::NoExits;
use super::hooked::{DirtyIoctl, Hooked, Hooks};
use super::layout::lock;
use super::pages::Pages;
use super::{PAGE, owned_host, range};

/// How many pages of host memory there are.
pub const MEMORY: u64 = 24;
/// Guest-physical pages from 0 on in which slots lie.
pub const SPACE: u64 = 40;

#[derive(Clone, Debug)]
pub enum Step {
    /// The guest writes the page at this guest-physical page, if it is logged.
    Store(u64),
    /// The kernel writes the page at this guest-physical page without a vCPU, if it is
    /// logged and the kernel makes such writes.
    StoreWithoutVcpu(u64),
    /// The VMM writes this page of its memory.
    Mark(u64),
    Collect,
    /// Pages are taken and copied.
    Copy,
    /// Slots change; the ioctl of that number, counted from here, fails.
    Slots(Vec<SlotPick>, Option<usize>),
}

#[derive(Clone, Copy, Debug)]
pub struct SlotPick {
    memory: u64,
    size: u64,
    gpa: u64,
    log_dirty: bool,
}

pub fn slot_pick() -> impl Strategy<Value = SlotPick> {
    let log = prop::bool::weighted(0.8);
    (0..MEMORY - 4, 1..5_u64, 0..SPACE - 4, log).prop_map(|(memory, size, gpa, log_dirty)| {
        SlotPick {
            memory,
            size,
            gpa,
            log_dirty,
        }
    })
}

/// Steps of the guest and the VMM that may happen at any time.
pub fn small_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SPACE).prop_map(Step::Store),
        2 => (0..SPACE).prop_map(Step::StoreWithoutVcpu),
        1 => (0..MEMORY).prop_map(Step::Mark),
        2 => Just(Step::Copy),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let slots = prop::collection::vec(slot_pick(), 0..8);
    let fail = prop_oneof![4 => Just(None), 1 => (0..6_usize).prop_map(Some)];
    prop_oneof![
        8 => small_step(),
        2 => Just(Step::Collect),
        2 => (slots, fail).prop_map(|(slots, fail)| Step::Slots(slots, fail)),
    ]
}

/// A mode, and whether the kernel writes to guest memory without a vCPU, which needs logs
/// beside rings.
pub type Kind = (DirtyMode, bool);

pub fn kind() -> impl Strategy<Value = Kind> {
    let mode = prop_oneof![
        Just(DirtyMode::Log),
        any::<bool>().prop_map(|initially_set| DirtyMode::ManualProtect { initially_set }),
        Just(DirtyMode::Ring { bytes: 4096 }),
        Just(DirtyMode::Ring { bytes: 4096 }),
    ];
    (mode, any::<bool>())
}

/// The steps that run during an ioctl of dirty tracking.
#[derive(Debug)]
pub struct Meanwhile {
    sim: SimVm,
    pages: Arc<Pages>,
    client: Option<DirtyClient>,
    /// Guest-physical to host pages, of slots that log.
    logged: BTreeMap<u64, u64>,
    copy: BTreeMap<u64, [u8; 8]>,
    /// Host pages written since they were last taken, by a simple log.
    pub written: BTreeSet<u64>,
    pub taken: BTreeSet<u64>,
    /// The remaining small steps between ioctls.
    pub steps: VecDeque<Step>,
    counter: u64,
    fail: Option<usize>,
}

impl Meanwhile {
    fn between(&mut self) {
        let some = self.steps.len().min(4);
        for step in self.steps.drain(..some).collect::<Vec<_>>() {
            // Where the ring is full the vCPU waits: the VMM is at it.
            let _ = self.small(&step);
        }
    }

    pub fn small(&mut self, step: &Step) -> Result<(), GuestFault> {
        self.counter += 1;
        let value = self.counter.to_le_bytes();
        match step {
            Step::Store(gpa) => {
                if let Some(&page) = self.logged.get(gpa) {
                    self.sim.guest_store(gpa * PAGE, &value, &mut NoExits)?;
                    self.written.insert(page);
                }
            }
            Step::StoreWithoutVcpu(gpa) => {
                let logged = self.logged.get(gpa);
                if let Some(&page) = logged.filter(|_| self.sim.config().ring_needs_log) {
                    self.sim
                        .store_without_vcpu(gpa * PAGE, &value)
                        .expect("memory");
                    self.written.insert(page);
                }
            }
            Step::Mark(page) => {
                self.pages.write(offset(*page), &value);
                let tracker = self.client.as_ref().expect("a client").tracker();
                match tracker.mark(self.pages.address() + page * PAGE + 3, 2) {
                    true => drop(self.written.insert(*page)),
                    // The error reports it, so the VMM reacts.
                    false => drop(self.copy.insert(*page, value)),
                }
            }
            Step::Copy => self.copy(),
            Step::Collect | Step::Slots(..) => unreachable!("no small steps"),
        }
        Ok(())
    }

    fn copy(&mut self) {
        let taken = self.client.as_ref().expect("a client").take_all();
        for run in taken.runs() {
            let number = |host: u64| (host - self.pages.address()) / PAGE;
            for page in number(run.start())..=number(run.last()) {
                self.copy.insert(page, self.pages.read(offset(page)));
                self.taken.insert(page);
                self.written.remove(&page);
            }
        }
    }
}

fn offset(page: u64) -> usize {
    usize::try_from(page * PAGE).expect("a small memory")
}

/// A VM on which the guest and the copying go on between any two ioctls.
pub type Racing = Hooked<Mutex<Meanwhile>>;

impl Racing {
    pub fn meanwhile(&self) -> MutexGuard<'_, Meanwhile> {
        lock(&self.hooks)
    }
}

impl Hooks for Mutex<Meanwhile> {
    fn before_memslot(&self) -> Result<(), Errno> {
        let fail = &mut lock(self).fail;
        let now = *fail == Some(0);
        *fail = fail.and_then(|left| left.checked_sub(1));
        match now {
            true => Err(Errno::ENOMEM),
            false => Ok(()),
        }
    }

    fn before(&self, _ioctl: DirtyIoctl) -> Result<(), Errno> {
        lock(self).between();
        Ok(())
    }

    fn after(&self) {
        lock(self).between();
    }
}

/// The whole of it.
pub struct Migration {
    pub vm: Racing,
    pub collector: Arc<DirtyCollector<Racing>>,
    pub slots: Slots<Racing>,
    pages: Arc<Pages>,
}

impl Migration {
    pub fn new((mode, ring_needs_log): Kind) -> Self {
        let sim = SimVm::new(SimConfig {
            ring_needs_log,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let pages = Arc::new(Pages::new(offset(MEMORY)));
        let vm = Racing::new(
            sim.clone(),
            Arc::new(Mutex::new(Meanwhile {
                sim: sim.clone(),
                pages: pages.clone(),
                client: None,
                logged: BTreeMap::new(),
                copy: BTreeMap::new(),
                written: BTreeSet::new(),
                taken: BTreeSet::new(),
                steps: VecDeque::new(),
                counter: 0,
                fail: None,
            })),
        );
        let capabilities = Capabilities::probe(&vm);
        let collector = DirtyCollector::new(vm.clone(), &capabilities, mode).expect("the mode");
        if let DirtyMode::Ring { .. } = mode {
            collector.add_ring(Box::new(sim.dirty_ring().expect("a ring")));
        }
        vm.meanwhile().client = Some(collector.tracker().client());
        let collector = Arc::new(collector);
        // SAFETY: the slots are on `pages`, a mapping of its own that lives as
        // long as the slots name it as their owner.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        Self {
            vm,
            slots: slots.with_watcher(collector.clone()),
            collector,
            pages,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Collect => self
                .collector
                .collect(self.slots.table())
                .expect("a collection"),
            Step::Slots(slots, fail) => self.change(slots, *fail),
            small => {
                let done = self.vm.meanwhile().small(small);
                if done == Err(GuestFault::DirtyRingFull) {
                    self.step(&Step::Collect);
                    self.vm.meanwhile().small(small).expect("room in the ring");
                }
            }
        }
    }

    /// Collects for the last time. It is not, but the logs may be read at any time.
    pub fn collect_final(&self) {
        let collected = self.collector.collect_final(self.slots.table());
        collected.expect("a final collection");
    }

    /// vCPUs are held: nothing runs meanwhile.
    fn change(&mut self, slots: &[SlotPick], fail: Option<usize>) {
        let target = self.ranges(slots);
        let plan = self.slots.plan(&target).expect("a plan");
        let held = std::mem::take(&mut self.vm.meanwhile().steps);
        self.vm.meanwhile().fail = fail;
        let _ = self.slots.apply(&plan);
        let logging = self.slots.table().slots().filter(|slot| slot.log_dirty());
        let pages = logging.flat_map(|slot| {
            let host = slot.backing().host().expect("plain").address() - self.pages.address();
            (0..slot.size() / PAGE).map(move |n| (slot.gpa() / PAGE + n, host / PAGE + n))
        });
        let mut meanwhile = self.vm.meanwhile();
        meanwhile.logged = pages.collect();
        (meanwhile.fail, meanwhile.steps) = (None, held);
    }

    fn ranges(&self, slots: &[SlotPick]) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for pick in slots {
            let (from, to) = (pick.gpa * PAGE, (pick.gpa + pick.size) * PAGE);
            if ranges
                .iter()
                .all(|r| r.gpa() + r.size() <= from || to <= r.gpa())
            {
                let address = self.pages.address() + pick.memory * PAGE;
                let backing = SlotBacking::Host(owned_host(address, self.pages.clone()));
                let range = range(from, pick.size * PAGE, backing);
                ranges.push(range.with_log_dirty(pick.log_dirty));
            }
        }
        ranges
    }

    /// The last round: the guest stands still. Returns the pages that differ.
    pub fn finish(&mut self) -> Vec<u64> {
        self.vm.meanwhile().steps.clear();
        self.collect_final();
        let mut meanwhile = self.vm.meanwhile();
        meanwhile.copy();
        let differs = |page: &u64| {
            let copied = meanwhile.copy.get(page).copied().unwrap_or_default();
            copied != self.pages.read::<8>(offset(*page))
        };
        (0..MEMORY).filter(differs).collect()
    }
}
