// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a running guest sees of a commit. In small worlds, every access is tried
//! in every interleaving with every commit: one that succeeds, one that is
//! refused at any operation, and one that another listener refuses.
//!
//! An access has up to three steps: the processor reaches memory or exits, the
//! vCPU thread looks the exit up, and the thread answers it. A commit has a step
//! for each ioctl and for each change of what readers see, and one in the middle
//! of each move, because a move is not a single step in every kernel. The result
//! that an access would have is recorded at each point between two steps of the
//! commit. Then every combination of points is checked.
//!
//! A thread that looks its exit up late, after a commit that began in between,
//! gets the new answer. If that is memory that only the guest can reach, there is
//! no answer. So threads count as in the guest until they have looked their exit
//! up, as [`HoldVcpus::hold`] requires.

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::pages::Pages;
use common::{ABI, PAGE};
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::sim::{KernelVersion, MmioHandler, SimConfig, SimVm};
use kvm_slots::{Errno, GuestMemfdFlags, HoldVcpus, SlotListener, Vm};
use memory_model::{
    AddrRange, FileSlice, FlatView, HostMemory, Listener, ListenerError, Memory, MemoryModel,
    PrivateMmio, Region, RegionId, SpaceId, Update, ViewReader,
};

/// How many pages the guest has.
const PAGES: u64 = 4;
/// The answer where no region is.
const NOTHING: u64 = 0;

/// A load, a store, or the fetch of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load,
    Store,
    Fetch,
}

const ACCESSES: [Access; 3] = [Access::Load, Access::Store, Access::Fetch];

/// How the processor's access is resolved. A stamp identifies what answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Memory(u64),
    Exit,
}

/// How a vCPU thread resolves an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Answer(u64),
    /// The view says that the guest reaches it, and there is no host address.
    Wait,
}

/// The results of all accesses between two steps of a commit, for each page and
/// each kind of access.
#[derive(Clone, Debug)]
struct Point {
    /// No vCPU is in the guest, so that no access starts.
    held: bool,
    /// What readers see at each page.
    published: Vec<u64>,
    reached: Vec<[Reached; 3]>,
    found: Vec<[Found; 3]>,
}

/// Records the results of all accesses between two steps.
#[derive(Debug)]
struct Observer {
    vm: SimVm,
    memory: Vec<Arc<Pages>>,
    reader: Mutex<Option<ViewReader<u64>>>,
    held: AtomicBool,
    points: Mutex<Vec<Point>>,
}

/// Notes that there was an exit.
struct Exits(bool);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) {
        self.0 = true;
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {
        self.0 = true;
    }
}

impl Observer {
    fn look(&self) {
        let reader = self.reader.lock().unwrap();
        let Some(reader) = &*reader else {
            return;
        };
        let view = reader.view();
        let each = |page: u64| ACCESSES.map(|access| (page * PAGE, access));
        let point = Point {
            held: self.held.load(Ordering::SeqCst),
            published: things(&view),
            reached: (0..PAGES)
                .map(|page| each(page).map(|(gpa, access)| self.reach(gpa, access)))
                .collect(),
            found: (0..PAGES)
                .map(|page| each(page).map(|(gpa, access)| self.find(&view, gpa, access)))
                .collect(),
        };
        self.points.lock().unwrap().push(point);
    }

    fn load(&self, gpa: u64) -> Option<u64> {
        let (mut data, mut exits) = ([0; 8], Exits(false));
        let loaded = self.vm.guest_load(gpa, &mut data, &mut exits);
        loaded.expect("no fault");
        (!exits.0).then(|| u64::from_le_bytes(data))
    }

    fn reach(&self, gpa: u64, access: Access) -> Reached {
        let direct = match access {
            Access::Load | Access::Fetch => self.load(gpa),
            Access::Store => {
                // Behind the stamp.
                let (value, mut exits) = (0x5ca1_ab1e_u64 ^ gpa, Exits(false));
                let stored = self
                    .vm
                    .guest_store(gpa + 8, &value.to_le_bytes(), &mut exits);
                stored.expect("no fault");
                let lands = || assert_eq!(self.load(gpa + 8), Some(value), "a store is lost");
                (!exits.0).then(lands).and_then(|()| self.load(gpa))
            }
        };
        direct.map_or(Reached::Exit, Reached::Memory)
    }

    /// The code for a vCPU thread in `SlotListener`'s documentation.
    fn find(&self, view: &FlatView<u64>, gpa: u64, access: Access) -> Found {
        let Some(run) = view.find(gpa) else {
            return Found::Answer(NOTHING);
        };
        let direct = match access {
            Access::Load | Access::Fetch => run.access().reads_directly(),
            Access::Store => run.access().writes_directly(),
        };
        if !direct {
            return Found::Answer(thing(view, gpa / PAGE));
        }
        let at = AddrRange::from_bounds(gpa, gpa).unwrap();
        match run.backing_of(at).unwrap().host() {
            Some(host) => Found::Answer(self.host_stamp(host.address())),
            None => Found::Wait,
        }
    }

    fn host_stamp(&self, address: u64) -> u64 {
        let inside = |pages: &&Arc<Pages>| {
            (pages.address()..pages.address() + pages.size()).contains(&address)
        };
        let pages = self.memory.iter().find(inside).expect("memory of a region");
        let offset = usize::try_from(address - pages.address()).unwrap();
        u64::from_le_bytes(pages.read(offset))
    }
}

/// The stamp of a page of a region.
fn stamp(region: usize, page: u64) -> u64 {
    (region as u64 + 1) << 8 | page
}

/// A VM that is observed between steps.
#[derive(Clone, Debug)]
struct Stepped {
    observer: Arc<Observer>,
    fails: Arc<Mutex<Fails>>,
}

/// Which call fails, and how many calls there were.
#[derive(Debug, Default)]
struct Fails {
    at: Option<usize>,
    calls: usize,
}

impl Vm for Stepped {
    fn check_extension(&self, capability: u32) -> i32 {
        self.observer.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        let vm = &self.observer.vm;
        {
            let mut fails = self.fails.lock().unwrap();
            let call = fails.calls;
            fails.calls += 1;
            if fails.at == Some(call) {
                return Err(Errno::ENOMEM);
            }
        }
        self.observer.look();
        let id = u16::try_from(region.slot).unwrap();
        let had = vm.memslots().into_iter().find(|slot| slot.id == Some(id));
        let moves = had.is_some_and(|had| had.gpa != region.guest_phys_addr);
        if region.memory_size > 0 && moves {
            // Absent for a moment, as on hosts that emulate accesses to it.
            let nowhere = kvm_userspace_memory_region2 {
                memory_size: 0,
                ..*region
            };
            // SAFETY: a deletion.
            unsafe { vm.set_user_memory_region2(&nowhere) }?;
            self.observer.look();
        }
        // SAFETY: passed on from the caller.
        let result = unsafe { vm.set_user_memory_region2(region) };
        self.observer.look();
        result
    }

    unsafe fn set_user_memory_region(
        &self,
        _region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn address_bits(&self) -> Option<u32> {
        // So that KVM itself refuses slots that no guest can reach.
        None
    }
}

impl HoldVcpus for Stepped {
    type Held = Held;

    fn hold(&self) -> Held {
        self.observer.look();
        assert!(!self.observer.held.swap(true, Ordering::SeqCst));
        Held(self.observer.clone())
    }
}

struct Held(Arc<Observer>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::SeqCst);
        self.0.look();
    }
}

/// Another listener: observes at each stage, and refuses on request.
#[derive(Debug)]
struct Other {
    observer: Arc<Observer>,
    refuses: AtomicBool,
    /// What answers at each page of the new view.
    target: Mutex<Option<Vec<u64>>>,
}

impl Listener<u64> for Other {
    fn name(&self) -> &str {
        "other"
    }

    fn prepare(&self, update: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        *self.target.lock().unwrap() = Some(things(update.new));
        match self.refuses.load(Ordering::SeqCst) {
            true => Err("on request".into()),
            false => Ok(()),
        }
    }

    fn apply(&self, _: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        Ok(())
    }

    fn commit(&self, _: &Update<'_, u64>) {
        self.observer.look();
    }

    fn abort(&self, _: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        Ok(())
    }
}

/// The kinds of regions in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ram(u64),
    Rom(u64),
    Mmio,
    PrivateMmio,
}

/// Where each region is: at a page, or nowhere.
type State = Vec<Option<u64>>;

/// The totals of all commits of a world.
#[derive(Debug, Default)]
struct Tally {
    commits: usize,
    refused: usize,
    interleavings: usize,
}

struct World {
    model: MemoryModel<u64>,
    space: SpaceId,
    root: RegionId,
    regions: Vec<RegionId>,
    stepped: Stepped,
    others: [Arc<Other>; 2],
    looks_up: LooksUp,
    _registers: OwnedFd,
}

impl World {
    fn new(whats: &[What]) -> Self {
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
                let host = HostMemory::new(map.address(), map.size(), map).unwrap();
                Memory::host_only(host)
            };
            let name = format!("{n}");
            let region = match *what {
                What::Ram(pages) => Region::ram(&name, ram(pages)),
                What::Rom(pages) => Region::rom(&name, ram(pages)),
                What::Mmio => Region::mmio(&name, PAGE.into()),
                What::PrivateMmio => {
                    let file = FileSlice::new(registers.as_raw_fd(), 0, PAGE, Arc::new(()));
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
        let slots = unsafe { SlotListener::new(stepped.clone(), ABI, stepped.clone()) };
        let others = [(); 2].map(|()| {
            Arc::new(Other {
                observer: observer.clone(),
                refuses: AtomicBool::new(false),
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

    /// Commits the change from one state to another; nothing fails.
    fn go(&mut self, from: &State, to: &State) {
        self.fail(None);
        self.try_to_go(from, to).unwrap();
    }

    fn fail(&self, fail: Option<Fail>) {
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
        }
    }

    fn try_to_go(&mut self, from: &State, to: &State) -> Result<(), memory_model::CommitError> {
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

    /// Commits the change from one state to another while one call fails or
    /// another listener refuses; returns whether that refused the commit.
    fn watch(&mut self, from: &State, to: &State, fail: Option<Fail>, tally: &mut Tally) -> bool {
        let observer = self.stepped.observer.clone();
        self.fail(fail);
        let old = self.model.view(self.space);
        *self.others[0].target.lock().unwrap() = None;
        *observer.reader.lock().unwrap() = Some(self.model.reader(self.space));
        observer.look();
        let result = self.try_to_go(from, to);
        observer.look();
        *observer.reader.lock().unwrap() = None;
        let points = std::mem::take(&mut *observer.points.lock().unwrap());
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
}

/// Why a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fail {
    Call(usize),
    Other(usize),
}

/// A commit, and all that was recorded during it.
struct Commit<'a> {
    old: &'a FlatView<u64>,
    /// The new view, by page.
    target: &'a [u64],
    /// The view after the commit: the old or the new one.
    new: &'a FlatView<u64>,
    points: &'a [Point],
    looks_up: LooksUp,
}

/// When a vCPU thread looks its exit up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LooksUp {
    /// At any time.
    Late,
    /// Before anyone holds the vCPUs.
    BeforeAHold,
}

impl Commit<'_> {
    /// vCPUs that are held run again only when readers see the new view.
    fn holds_until_published(&self) {
        let mut after_hold = self.points.iter().skip_while(|point| !point.held);
        let new = things(self.new);
        assert!(after_hold.all(|point| point.held || point.published == new));
    }

    /// Checks an access in all interleavings; returns how many there are.
    fn check(&self, page: u64, access: Access) -> Result<usize, String> {
        let at = usize::try_from(page).unwrap();
        let (before, after) = (thing(self.old, page), thing(self.new, page));
        let may = [before, self.target[at], after];
        let last = self.points.len() - 1;
        let mut checked = 0;
        for (start, point) in self.points.iter().enumerate() {
            if point.held {
                continue;
            }
            match point.reached[at][access as usize] {
                Reached::Memory(stamp) => {
                    checked += 1;
                    let right = match start {
                        0 => [before].contains(&stamp),
                        _ if start == last => [after].contains(&stamp),
                        _ => may.contains(&stamp),
                    };
                    if !right {
                        return Err(format!("{stamp:#x} at {start} of {last}, not {may:x?}"));
                    }
                }
                Reached::Exit if access == Access::Fetch => {
                    checked += 1;
                    // It cannot be emulated, so it must not be needed.
                    let stays = self.is_direct(self.old, page) && self.is_direct(self.new, page);
                    if stays {
                        return Err(format!("no instruction at {start} of {last}"));
                    }
                }
                Reached::Exit => {
                    let hold = (start..=last).find(|&point| self.points[point].held);
                    for lookup in start..=last {
                        if self.looks_up == LooksUp::BeforeAHold
                            && hold.is_some_and(|hold| lookup >= hold)
                        {
                            break;
                        }
                        checked += 1;
                        let found = (lookup..=last).find_map(|at_point| {
                            match self.points[at_point].found[at][access as usize] {
                                Found::Answer(stamp) => Some(stamp),
                                Found::Wait => None,
                            }
                        });
                        let Some(stamp) = found else {
                            return Err(format!("no answer from {start}, {lookup} of {last}"));
                        };
                        let right = match (start, lookup) {
                            (0, 0) => stamp == before,
                            _ if start == last => stamp == after,
                            _ => may.contains(&stamp),
                        };
                        if !right {
                            let when = format!("{start}, {lookup} of {last}");
                            return Err(format!("{stamp:#x} at {when}, not {may:x?}"));
                        }
                    }
                }
            }
        }
        Ok(checked)
    }

    fn is_direct(&self, view: &FlatView<u64>, page: u64) -> bool {
        let run = view.find(page * PAGE);
        run.is_some_and(|run| run.access().reads_directly())
    }
}

/// What a view has at a page, by its stamp.
fn thing(view: &FlatView<u64>, page: u64) -> u64 {
    let gpa = page * PAGE;
    view.find(gpa).map_or(NOTHING, |run| {
        run.region().handle() + run.offset_of(gpa).unwrap() / PAGE
    })
}

fn things(view: &FlatView<u64>) -> Vec<u64> {
    (0..PAGES).map(|page| thing(view, page)).collect()
}

/// Every commit from every state to every other one: successful, refused at each
/// call, and refused by listeners before and after the slots.
fn explore(whats: &[What], places: &[&[u64]]) -> Tally {
    let mut states: Vec<State> = vec![Vec::new()];
    for places in places {
        let nowhere_too = places.iter().map(|page| Some(*page)).chain([None]);
        let nowhere_too: Vec<_> = nowhere_too.collect();
        states = states
            .iter()
            .flat_map(|state| {
                let longer = nowhere_too.iter().map(|place| {
                    let mut state = state.clone();
                    state.push(*place);
                    state
                });
                longer.collect::<Vec<_>>()
            })
            .collect();
    }
    let mut world = World::new(whats);
    let mut tally = Tally::default();
    let nowhere = vec![None; whats.len()];
    for from in &states {
        world.go(&nowhere, from);
        for to in &states {
            for other in 0..2 {
                if !world.watch(from, to, Some(Fail::Other(other)), &mut tally) {
                    world.go(to, from);
                }
            }
            let calls = (0..).take_while(|&call| {
                let refused = world.watch(from, to, Some(Fail::Call(call)), &mut tally);
                if !refused {
                    world.go(to, from);
                }
                refused
            });
            let _ = calls.count();
        }
        world.go(from, &nowhere);
    }
    tally
}

#[test]
fn a_guest_sees_of_ram_and_devices_only_the_old_and_the_new() {
    let whats = [What::Ram(2), What::Ram(1), What::Mmio];
    let tally = explore(&whats, &[&[0, 1, 2], &[0, 1, 3], &[1, 2]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}

#[test]
fn a_guest_sees_of_private_mmio_only_the_old_and_the_new() {
    let whats = [What::Ram(2), What::PrivateMmio, What::Mmio];
    let tally = explore(&whats, &[&[0, 1], &[0, 1, 2, 3], &[1, 2]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}

#[test]
fn a_guest_sees_of_rom_only_the_old_and_the_new() {
    let whats = [What::Rom(2), What::Ram(1), What::Rom(1)];
    let tally = explore(&whats, &[&[0, 1, 2], &[0, 1, 3], &[0, 3]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}
