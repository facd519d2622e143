// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The regions of the changing memory, and changes of every kind.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memory_model::{
    CommitError, DirtyClients, FlatView, HostMemory, Listener, ListenerError, Memory, Region,
    RegionId, Transaction, TreeError, Update,
};

use super::code::{FETCH, FUNCTION, NO_STORE, NOTHING, PAGES, Word, function};
use super::machine::{Device, Handle, MEMORY, Machine, Words, line};
use crate::check::at;
use crate::random::Random;
use crate::vcpu::compile;

/// A vCPU without progress for this long is an error.
const TOO_LONG: Duration = Duration::from_secs(60);

/// The kind of a region, and its number of pages.
#[derive(Clone, Copy, Debug)]
enum What {
    Ram(u64),
    Mmio(u64),
}

/// The regions: later ones cover earlier ones.
const WHATS: [What; 7] = [
    What::Ram(8),
    What::Ram(4),
    What::Ram(2),
    What::Ram(1),
    What::Mmio(1),
    What::Mmio(2),
    What::Ram(1),
];

/// A page at which KVM has a slot that is not in the model.
pub(super) const IN_THE_WAY: u64 = PAGES;
/// A page that the guest cannot reach, for a BAR beyond its addresses, whatever
/// the size of a page.
pub(super) const BEYOND: u64 = (1 << 56) / 0x1000;

/// One step of a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Move(usize, u64),
    Show(usize, bool),
    Readonly(usize, bool),
    Log(usize, bool),
}

impl Step {
    /// A random step.
    pub(super) fn random(random: &mut Random) -> Self {
        let region = usize::try_from(random.below(WHATS.len() as u64)).expect("small");
        let on = random.below(2) == 0;
        match random.below(8) {
            0..=3 => {
                let last = PAGES - WHATS[region].pages();
                Self::Move(region, random.below(last + 1))
            }
            4 | 5 => Self::Show(region, on),
            6 if WHATS[region].is_ram() => Self::Readonly(region, on),
            _ if WHATS[region].is_ram() => Self::Log(region, on),
            _ => Self::Show(region, on),
        }
    }
}

impl What {
    fn pages(self) -> u64 {
        match self {
            Self::Ram(pages) | Self::Mmio(pages) => pages,
        }
    }

    fn is_ram(self) -> bool {
        matches!(self, Self::Ram(_))
    }
}

/// The machine with its regions.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) regions: Vec<RegionId>,
    /// The listener before the slots.
    pub(super) refuses: Arc<Refuses>,
    /// The listener after the slots.
    pub(super) refuses_last: Arc<Refuses>,
}

impl World {
    pub(super) fn new() -> Result<Self, String> {
        let mut machine = Machine::new()?;
        let announces = Announces {
            own: machine.own.clone(),
            page_size: machine.page_size,
            vcpus: AtomicU8::new(0),
            ended: AtomicBool::new(false),
            failed: Mutex::default(),
        };
        machine.put_in_the_way(machine.page(IN_THE_WAY))?;
        let mut regions = Vec::new();
        let mut thing = NOTHING + 1;
        let (root, page_size) = (machine.root, machine.page_size);
        let pages: Vec<u64> = (0..PAGES).map(|page| machine.page(page)).collect();
        let mut change = machine.model.transaction();
        for (number, what) in WHATS.iter().enumerate() {
            let region = region(&number.to_string(), *what, thing, page_size)?;
            thing += what.pages();
            let region = change.add(region).map_err(at("a region"))?;
            let priority = i32::try_from(number).map_err(at("a priority"))?;
            let placed = change.place(region, root, pages[2 * number], priority);
            placed.map_err(at("a place"))?;
            regions.push(region);
        }
        change.commit().map_err(at("the regions"))?;
        let announces = Arc::new(announces);
        let [refuses, refuses_last] = [(); 2].map(|()| {
            Arc::new(Refuses {
                when: AtomicU8::new(NEVER),
                announces: announces.clone(),
            })
        });
        let (space, model) = (machine.space, &mut machine.model);
        let added = model.add_listener(space, i32::MIN, announces);
        added.map_err(at("a listener"))?;
        for (priority, refuses) in [(-1, &refuses), (1, &refuses_last)] {
            let added = model.add_listener(space, priority, refuses.clone());
            added.map_err(at("a listener"))?;
        }
        let mut world = Self {
            machine,
            regions,
            refuses,
            refuses_last,
        };
        world.settle();
        Ok(world)
    }

    /// vCPUs with numbers below this run, and changes wait for them.
    pub(super) fn wait_for(&self, vcpus: u64) {
        let vcpus = u8::try_from(vcpus).expect("a few");
        self.refuses.announces.vcpus.store(vcpus, Ordering::SeqCst);
    }

    /// Makes a change while the guest checks what it sees.
    pub(super) fn commit(&mut self, steps: &[Step]) -> Result<Result<(), CommitError>, String> {
        let regions = self.regions.clone();
        let page_size = self.machine.page_size;
        let made = self.change(|change| {
            for step in steps {
                match *step {
                    Step::Move(n, page) => change.move_to(regions[n], MEMORY + page * page_size),
                    Step::Show(n, on) => change.set_enabled(regions[n], on),
                    Step::Readonly(n, on) => change.set_readonly(regions[n], on),
                    Step::Log(n, true) => change.set_dirty_logging(regions[n], DirtyClients::VGA),
                    Step::Log(n, false) => change.set_dirty_logging(regions[n], DirtyClients::NONE),
                }?;
            }
            Ok(())
        })?;
        let failed = self.refuses.announces.failed.lock();
        match failed.unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(why),
            None => Ok(made),
        }
    }

    fn change(
        &mut self,
        edit: impl FnOnce(&mut Transaction<'_, Handle>) -> Result<(), TreeError>,
    ) -> Result<Result<(), CommitError>, String> {
        let mut change = self.machine.model.transaction();
        edit(&mut change).map_err(at("a step"))?;
        let made = change.commit();
        self.settle();
        Ok(made)
    }

    /// No commit is in progress, so only the current view may answer.
    fn settle(&mut self) {
        let view = self.machine.model.view(self.machine.space);
        for page in 0..PAGES {
            let at = self.machine.page(page);
            let may = may(&view, at, self.machine.page_size);
            self.machine.may(page).store(may, Ordering::SeqCst);
        }
        let number = self.machine.number();
        let odd = number.load(Ordering::SeqCst) % 2;
        number.fetch_add(odd, Ordering::SeqCst);
    }
}

fn region(name: &str, what: What, thing: u64, page_size: u64) -> Result<Region<Handle>, String> {
    let handle = Handle {
        thing,
        ..Handle::default()
    };
    match what {
        What::Mmio(pages) => {
            let region = Region::mmio(name, (pages * page_size).into());
            Ok(region.with_handle(Handle {
                device: Some(Arc::new(Device::default())),
                ..handle
            }))
        }
        What::Ram(pages) => {
            let mut bytes = vec![0; usize::try_from(pages * page_size).map_err(at("a size"))?];
            for page in 0..pages {
                let mut put = |offset: u64, what: &[u8]| {
                    let start = usize::try_from(page * page_size + offset).expect("small");
                    bytes[start..start + what.len()].copy_from_slice(what);
                };
                put(0, &(thing + page).to_le_bytes());
                put(FUNCTION.into(), compile(&function(thing + page))?.bytes());
            }
            let memory = Words::new(&bytes)?;
            let (address, size) = (memory.address(), memory.size());
            // SAFETY: `memory` owns the mapping, and this process accesses it by atomics only.
            let host = unsafe { HostMemory::new(address, size, memory.clone()) };
            let host = host.ok_or("host memory")?;
            let region = Region::ram(name, Memory::host_only(host));
            Ok(region.with_handle(Handle {
                memory: Some(memory),
                ..handle
            }))
        }
    }
}

/// The answer at the address of a page of a view, in the guest's encoding.
fn may(view: &FlatView<Handle>, page: u64, page_size: u64) -> u64 {
    let Some(run) = view.find(page) else {
        return 1 << NOTHING | NO_STORE;
    };
    let offset = run.offset_of(page).unwrap_or_default();
    let thing = 1 << (run.region().handle().thing + offset / page_size);
    let access = run.access();
    let fetch = if access.reads_directly() { FETCH } else { 0 };
    let trapped = run.region().handle().device.is_some();
    let store = match access.writes_directly() || trapped {
        true => 0,
        false => NO_STORE,
    };
    thing | fetch | store
}

/// Announces a commit to the guest before it begins.
struct Announces {
    own: Arc<Words>,
    page_size: u64,
    vcpus: AtomicU8,
    /// Records that a vCPU has ended, so that changes do not wait for it.
    ended: AtomicBool,
    failed: Mutex<Option<String>>,
}

impl Announces {
    fn word(&self, page: u64) -> &AtomicU64 {
        self.own.word(super::machine::may_at(page))
    }

    fn announce(&self, new: &FlatView<Handle>) {
        let mut fewer = false;
        for page in 0..PAGES {
            let at = MEMORY + page * self.page_size;
            let (word, new) = (self.word(page), may(new, at, self.page_size));
            let old = word.load(Ordering::SeqCst);
            let fetch = old & new & FETCH;
            fewer |= old & FETCH != fetch;
            word.store((old | new) & !FETCH | fetch, Ordering::SeqCst);
        }
        self.own
            .word(super::machine::CONTROL)
            .fetch_add(1, Ordering::SeqCst);
        if fewer && let Err(why) = self.wait_for_fetches() {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(why);
        }
    }

    /// Waits until no vCPU fetches from pages that are about to be removed: KVM
    /// cannot emulate an instruction that it cannot read.
    fn wait_for_fetches(&self) -> Result<(), String> {
        let vcpus = self.vcpus.load(Ordering::SeqCst);
        let begun = |vcpu: u8| {
            let word = self.own.word(line(vcpu.into(), Word::Begun));
            word.load(Ordering::SeqCst)
        };
        let before: Vec<u64> = (0..vcpus).map(begun).collect();
        let start = Instant::now();
        for vcpu in 0..vcpus {
            while begun(vcpu) == before[usize::from(vcpu)] {
                if self.ended.load(Ordering::SeqCst) {
                    return Err("a vCPU has ended".into());
                }
                if start.elapsed() > TOO_LONG {
                    return Err(format!("vCPU {vcpu} makes no progress"));
                }
                thread::yield_now();
            }
        }
        Ok(())
    }
}

impl Listener<Handle> for Announces {
    fn name(&self) -> &str {
        "announces"
    }

    fn prepare(&self, update: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.announce(update.new);
        Ok(())
    }
}

/// When a listener refuses.
pub(super) const NEVER: u8 = 0;
pub(super) const PREPARE: u8 = 1;
pub(super) const APPLY: u8 = 2;

/// Refuses on request, before or after it has prepared.
pub(super) struct Refuses {
    pub(super) when: AtomicU8,
    announces: Arc<Announces>,
}

impl Refuses {
    /// A vCPU makes no progress.
    pub(super) fn vcpu_ended(&self) {
        self.announces.ended.store(true, Ordering::SeqCst);
    }

    fn refuse(&self, when: u8) -> Result<(), ListenerError> {
        match self.when.load(Ordering::SeqCst) == when {
            true => Err("on request".into()),
            false => Ok(()),
        }
    }
}

impl Listener<Handle> for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }

    fn prepare(&self, _: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.refuse(PREPARE)
    }

    fn apply(&self, _: &Update<'_, Handle>) -> Result<(), ListenerError> {
        self.refuse(APPLY)
    }
}
