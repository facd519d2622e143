// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the integration tests share: small regions, a machine with one address
//! space, views as text, and a listener that remembers.

pub mod mapped;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use memory_model::{
    AddrRange, CommitError, Diff, DirtyClients, EventFd, FileSlice, FlatRange, FlatView,
    GuestAccess, GuestMemfdSides, HostMemory, IoEventFd, Listener, ListenerError, Memory,
    MemoryModel, Owner, PageSet, PrivateMmio, Region, RegionId, SpaceId, Switches, Transaction,
    TreeError, Trigger, Update,
};

/// 2^64 bytes: everything.
pub const EVERYTHING: u128 = 1 << 64;

/// Host memory at a made-up address: nothing here reads through it.
pub fn host(size: u64) -> HostMemory {
    host_at(0x7000_0000_0000, size, Arc::new(()))
}

/// Host memory at a made-up address, with an owner.
pub fn host_at(address: u64, size: u64, owner: Owner) -> HostMemory {
    // SAFETY: no test of this crate accesses memory at such an address.
    unsafe { HostMemory::new(address, size, owner) }.unwrap()
}

pub fn file(size: u64) -> FileSlice {
    FileSlice::new(Arc::new(std::io::stdin()), 0, size).unwrap()
}

pub fn memory(size: u64) -> Memory {
    Memory::host_only(host(size))
}

pub fn ram(name: &str, size: u64) -> Region {
    Region::ram(name, memory(size))
}

pub fn guest_memfd_ram(name: &str, size: u64, sides: GuestMemfdSides) -> Region {
    Region::ram(
        name,
        Memory::with_guest_memfd(host(size), file(size), sides).unwrap(),
    )
}

pub fn private_mmio(name: &str, size: u64) -> Region {
    Region::private_mmio(name, PrivateMmio::new(file(size)))
}

pub fn switches(change: impl FnOnce(&mut Switches)) -> Switches {
    let mut switches = Switches::default();
    change(&mut switches);
    switches
}

pub fn bytes(start: u64, size: u128) -> AddrRange {
    AddrRange::new(start, size).unwrap()
}

/// An ioeventfd for writes of 4 bytes.
pub fn bell(at: u64, fd: i32) -> IoEventFd {
    triggered(at, Trigger::U32(None), fd)
}

pub fn triggered(at: u64, trigger: Trigger, fd: i32) -> IoEventFd {
    let event = EventFd::new(fd, Arc::new(()));
    IoEventFd { at, trigger, event }
}

/// A model with a root of 2^64 bytes and one address space that shows it.
pub struct Machine {
    pub model: MemoryModel,
    pub root: RegionId,
    pub space: SpaceId,
}

impl Machine {
    pub fn new() -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("root", EVERYTHING)).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        Self { model, root, space }
    }

    /// Makes a change whose steps all succeed, and commits it.
    pub fn try_change<T>(
        &mut self,
        steps: impl FnOnce(&mut Transaction<'_, ()>) -> Result<T, TreeError>,
    ) -> Result<T, CommitError> {
        let mut t = self.model.transaction();
        let result = steps(&mut t).expect("every step is allowed");
        t.commit().map(|()| result)
    }

    /// Makes a change that succeeds.
    pub fn change<T>(
        &mut self,
        steps: impl FnOnce(&mut Transaction<'_, ()>) -> Result<T, TreeError>,
    ) -> T {
        self.try_change(steps).expect("the commit is allowed")
    }

    /// Adds a region that lies nowhere.
    pub fn add(&mut self, region: Region) -> RegionId {
        self.change(|t| t.add(region))
    }

    /// Adds a region and places it in `parent`, with priority 0.
    pub fn put_in(&mut self, parent: RegionId, region: Region, address: u64) -> RegionId {
        self.change(|t| {
            let id = t.add(region)?;
            t.place(id, parent, address, 0)?;
            Ok(id)
        })
    }

    /// Adds a region and places it in the root, with priority 0.
    pub fn put(&mut self, region: Region, address: u64) -> RegionId {
        self.put_in(self.root, region, address)
    }

    /// Adds a region and places it in the root, above priority 0.
    pub fn put_over(&mut self, region: Region, address: u64) -> RegionId {
        let root = self.root;
        self.change(|t| {
            let id = t.add(region)?;
            t.place(id, root, address, 1)?;
            Ok(id)
        })
    }

    /// The space's view as text.
    pub fn view(&self) -> Vec<String> {
        show(&self.model.view(self.space))
    }

    /// Everything about the tree that is public, and the view as text.
    pub fn everything(&self, regions: &[RegionId]) -> String {
        let tree = self.model.tree();
        let of = |&id: &RegionId| (tree.place(id), tree.switches(id), tree.children(id));
        let regions: Vec<_> = regions.iter().chain([&self.root]).map(of).collect();
        format!("{regions:?} {:?}", self.view())
    }
}

/// A view as text: `start-last name[ @offset] access[ nv][ apart][ log CLIENTS]`
/// for each run, in hexadecimal.
pub fn show(view: &FlatView<()>) -> Vec<String> {
    view.ranges().map(show_run).collect()
}

fn show_run(run: &FlatRange<()>) -> String {
    let range = run.range();
    let offset = match run.offset() {
        0 => String::new(),
        offset => format!(" @{offset:x}"),
    };
    let access = match run.access() {
        GuestAccess::ReadWrite => "rw",
        GuestAccess::ReadOnly => "ro",
        GuestAccess::ReadTrapWrite => "r+trap",
        GuestAccess::Trap => "trap",
    };
    let attributes = run.attributes();
    let nonvolatile = ["", " nv"][usize::from(attributes.nonvolatile)];
    let apart = ["", " apart"][usize::from(attributes.unmergeable)];
    let logged = match attributes.logged {
        DirtyClients::NONE => String::new(),
        clients => format!(" log {clients:?}"),
    };
    let name = run.region().name();
    format!(
        "{:x}-{:x} {name}{offset} {access}{nonvolatile}{apart}{logged}",
        range.start(),
        range.last()
    )
}

/// A diff as text: `-run` was removed, `+run` added, `run > run` changed.
pub fn show_diff(diff: &Diff<()>) -> Vec<String> {
    let removed = diff.removed.iter().map(|r| format!("-{}", show_run(r)));
    let added = diff.added.iter().map(|r| format!("+{}", show_run(r)));
    let changed = diff
        .changed
        .iter()
        .map(|(old, new)| format!("{} > {}", show_run(old), show_run(new)));
    removed.chain(added).chain(changed).collect()
}

/// What listeners were notified of, in order.
pub type Log = Arc<Mutex<Vec<String>>>;

/// Takes what was logged so far.
pub fn take(log: &Log) -> Vec<String> {
    core::mem::take(&mut log.lock().unwrap())
}

/// A listener that logs every call, and refuses on request.
pub struct Recorder {
    name: String,
    log: Log,
    pub refuses: AtomicBool,
    pub cannot_undo: AtomicBool,
}

impl Recorder {
    pub fn new(name: &str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            log: log.clone(),
            refuses: AtomicBool::new(false),
            cannot_undo: AtomicBool::new(false),
        })
    }

    fn say(&self, what: &str) {
        let line = format!("{} {what}", self.name);
        self.log.lock().unwrap().push(line);
    }

    fn fails(&self, when: &AtomicBool, what: &str) -> Result<(), ListenerError> {
        match when.load(Ordering::Relaxed) {
            true => Err(format!("{} cannot {what}", self.name).into()),
            false => Ok(()),
        }
    }
}

impl Listener<()> for Recorder {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.say(&format!("prepare {}", show_diff(update.diff).join(", ")));
        self.fails(&self.refuses, "prepare")
    }

    fn commit(&self, _update: &Update<'_, ()>) {
        self.say("commit");
    }

    fn abort(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.say("abort");
        self.fails(&self.cannot_undo, "abort")
    }

    fn revoked(&self, _space: SpaceId, lost: &PageSet) {
        self.say(&format!("revoked {lost:?}"));
    }
}
