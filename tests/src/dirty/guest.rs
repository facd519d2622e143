// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that makes one store after another to tracked memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kvm_slots::dirty::{DirtyClient, DirtyCollector, DirtyMode, RingId};
use kvm_slots::exit::{GuestFault, MmioHandler};
use kvm_slots::{AbiProfile, Capabilities, KvmVm, SlotAccess, SlotBacking, SlotRange, Slots};
use vmm::HostMapping;
use vmm::backend::Platform;
use vmm::guest::{Guest, GuestError, VcpuGuest, stub};
use vmm::machine::{Access, AccessKind, How};

use crate::needs::{empty, kvm};

/// The number of pages of the tracked memory: not a multiple of 64.
pub const PAGES: u64 = 1100;
/// One of the two addresses of the tracked memory.
pub const LOW: u64 = 0x4000_0000;
/// See [`LOW`].
pub const HIGH: u64 = 0x8000_0000;

/// The address of the guest's code.
const CODE: u64 = 0x1_0000_0000;

/// A VM of the real KVM with tracked memory.
pub struct Tracked {
    slots: Slots<KvmVm>,
    collector: Arc<DirtyCollector<KvmVm>>,
    client: DirtyClient,
    memory: Arc<HostMapping>,
    code: Arc<HostMapping>,
    code_size: u64,
    page_size: u64,
    guest: Option<VcpuGuest>,
    script: Arc<[Access]>,
    next: usize,
    ring: Option<RingId>,
    ring_was_full: usize,
}

impl Tracked {
    /// A guest that stores 8 bytes at each of these addresses in turn: the
    /// number of the store, starting with 1.
    pub fn new(mode: DirtyMode, stores: &[u64]) -> Result<Self, String> {
        let kvm = kvm(&empty())?;
        let vm = kvm.vm().clone();
        let capabilities = Capabilities::probe(&vm);
        let collector = DirtyCollector::new(vm.clone(), &capabilities, mode).map_err(text)?;
        let script: Arc<[Access]> = (1..).zip(stores).map(|(n, gpa)| store(n, *gpa)).collect();
        let page_size = capabilities.page_size.bytes();
        let code_size = stub::size(&kvm.code(), &script).next_multiple_of(page_size);
        let code = HostMapping::anonymous(code_size).map_err(text)?;
        let stub = stub::compile(&kvm.code(), &script, CODE);
        code.write(0, &stub.image).map_err(text)?;
        let guest = kvm.start(&stub).map_err(text)?;
        let ring = match mode {
            DirtyMode::Ring { .. } => {
                let ring = vm.map_dirty_ring(guest.vcpu()).map_err(text)?;
                Some(collector.add_ring(Box::new(ring)))
            }
            DirtyMode::Log | DirtyMode::ManualProtect { .. } => None,
            unknown => return Err(format!("no test for {unknown:?}")),
        };
        let collector = Arc::new(collector);
        // SAFETY: the VM is new, and all of its slots are made through `slots`,
        // that of the guest's code too.
        let slots = unsafe { Slots::new(vm, AbiProfile::None) };
        Ok(Self {
            slots: slots.with_watcher(collector.clone()),
            client: collector.tracker().client(),
            collector,
            memory: Arc::new(HostMapping::anonymous(PAGES * page_size).map_err(text)?),
            code: Arc::new(code),
            code_size,
            page_size,
            guest: Some(guest),
            script,
            next: 0,
            ring,
            ring_was_full: 0,
        })
    }

    /// Places the tracked memory at `gpa`. Returns the last operation as text.
    pub fn has(&mut self, gpa: u64, log_dirty: bool) -> Result<String, String> {
        let memory = ram(gpa, PAGES * self.page_size, &self.memory);
        self.follow(&[memory.with_log_dirty(log_dirty)])
    }

    /// Removes the tracked memory.
    pub fn has_none(&mut self) -> Result<String, String> {
        self.follow(&[])
    }

    fn follow(&mut self, memory: &[SlotRange]) -> Result<String, String> {
        let mut wanted = memory.to_vec();
        wanted.push(ram(CODE, self.code_size, &self.code));
        let plan = self.slots.plan(&wanted).map_err(text)?;
        // The guest does not run: `store` and `while_running` return after it
        // has stopped.
        let applied = self.slots.apply(&plan).map_err(text)?;
        Ok(applied
            .ops()
            .last()
            .map_or_else(String::new, ToString::to_string))
    }

    /// The guest makes its next `count` stores.
    pub fn store(&mut self, count: usize) -> Result<(), String> {
        let mut guest = self.guest.take().ok_or("the guest is elsewhere")?;
        for _ in 0..count {
            let access = self.script[self.next];
            while let Err(error) = guest.access(&access, &mut Unanswered) {
                self.make_room(error)?;
            }
            self.next += 1;
        }
        self.guest = Some(guest);
        Ok(())
    }

    fn make_room(&mut self, error: GuestError) -> Result<(), String> {
        match error {
            GuestError::Fault(GuestFault::DirtyRingFull) => {
                self.ring_was_full += 1;
                let ring = self.ring.ok_or("a ring is full, and there is none")?;
                self.collector
                    .make_room(self.slots.table(), ring)
                    .map_err(text)
            }
            error => Err(text(error)),
        }
    }

    /// The guest makes all its stores on a thread of its own. Meanwhile another
    /// thread collects, and this one calls `watch` repeatedly. Returns the
    /// number of stores.
    pub fn while_running(
        &mut self,
        mut watch: impl FnMut(&DirtyClient, &HostMapping) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut guest = self.guest.take().ok_or("the guest is elsewhere")?;
        let (script, collector, table) = (&self.script, &self.collector, self.slots.table());
        std::thread::scope(|scope| {
            let vcpu = scope.spawn(move || run_all(&mut guest, script));
            let vmm = scope.spawn(move || {
                let mut collected = Ok(());
                while !vcpu.is_finished() {
                    // Continue after a failure, because the guest waits for
                    // room in its ring.
                    collected = collector.collect(table).and(collected);
                }
                let ran = vcpu.join().map_err(|_| "the vCPU's thread panicked")?;
                collected.map_err(text).and(ran)
            });
            let mut watched = Ok(());
            while !vmm.is_finished() {
                watched = watched.and_then(|()| watch(&self.client, &self.memory));
            }
            let ran = vmm.join().map_err(|_| "the collecting thread panicked")?;
            watched.and(ran)
        })
    }

    /// Marks a write of the VMM, by guest-physical address.
    pub fn mark(&self, gpa: u64, size: u64) -> Result<(), String> {
        let tracker = self.collector.tracker();
        match tracker.mark_guest(self.slots.table(), gpa, size) {
            true => Ok(()),
            false => Err(format!("{size} bytes at {gpa:#x} are not tracked")),
        }
    }

    /// Collects, and takes the guest-physical addresses of the dirty pages.
    pub fn collected(&self) -> Result<Vec<u64>, String> {
        self.collector.collect(self.slots.table()).map_err(text)?;
        let mut pages = Vec::new();
        for slot in self.slots.table().slots().filter(|slot| slot.gpa() != CODE) {
            for (gpa, size) in self.client.take_slot(slot).in_slot(slot) {
                let pages_of_slot = size / self.page_size;
                pages.extend((0..pages_of_slot).map(|page| gpa + page * self.page_size));
            }
        }
        match self.client.take_all().is_empty() {
            true => Ok(pages),
            false => Err("pages outside of the tracked memory".into()),
        }
    }

    /// Collects, and takes the numbers of the dirty pages of the tracked
    /// memory, whether or not it is in a slot.
    pub fn all_taken(&self) -> Result<Vec<u64>, String> {
        self.collector.collect(self.slots.table()).map_err(text)?;
        let taken = self.client.take_all();
        let first = self.memory.address();
        let page = |host: u64| (host - first) / self.page_size;
        let runs = taken.runs();
        Ok(runs
            .flat_map(|run| page(run.start())..page(run.last()) + 1)
            .collect())
    }

    /// Copies the first 8 bytes of each dirty page, by number.
    pub fn copy_last(&self, copy: &mut BTreeMap<u64, u64>) -> Result<(), String> {
        self.collector.collect(self.slots.table()).map_err(text)?;
        copy_pages(&self.client, &self.memory, self.page_size, copy)
    }

    /// The first 8 bytes of each page.
    pub fn read(&self, page: u64) -> Result<u64, String> {
        read(&self.memory, page * self.page_size)
    }

    /// How many times the guest exited because its ring was full.
    pub fn ring_was_full(&self) -> usize {
        self.ring_was_full
    }
}

fn run_all(guest: &mut VcpuGuest, script: &[Access]) -> Result<usize, String> {
    for (done, access) in script.iter().enumerate() {
        loop {
            match guest.access(access, &mut Unanswered) {
                Ok(_) => break,
                // Another thread makes room in the ring.
                Err(GuestError::Fault(GuestFault::DirtyRingFull)) => std::thread::yield_now(),
                Err(error) => return Err(format!("store {done}: {error}")),
            }
        }
    }
    Ok(script.len())
}

/// Requires that two sets of pages are equal.
pub fn expect(
    what: &str,
    seen: Vec<u64>,
    expected: impl IntoIterator<Item = u64>,
) -> Result<(), String> {
    let expected: BTreeSet<u64> = expected.into_iter().collect();
    match expected.iter().copied().eq(seen.iter().copied()) {
        true => Ok(()),
        false => Err(format!("{what}: seen {seen:x?}, expected {expected:x?}")),
    }
}

/// Takes the dirty pages and copies them, by number.
pub fn copy_pages(
    client: &DirtyClient,
    memory: &HostMapping,
    page_size: u64,
    copy: &mut BTreeMap<u64, u64>,
) -> Result<(), String> {
    for run in client.take_all().runs() {
        let number = |host: u64| (host - memory.address()) / page_size;
        for page in number(run.start())..=number(run.last()) {
            copy.insert(page, read(memory, page * page_size)?);
        }
    }
    Ok(())
}

fn read(memory: &HostMapping, offset: u64) -> Result<u64, String> {
    let mut data = [0; 8];
    memory.read(offset, &mut data).map_err(text)?;
    Ok(u64::from_le_bytes(data))
}

/// In these tests, no store may exit.
struct Unanswered;

impl MmioHandler for Unanswered {
    fn mmio_read(&mut self, gpa: u64, _data: &mut [u8]) {
        panic!("a load at {gpa:#x} exits");
    }

    fn mmio_write(&mut self, gpa: u64, _data: &[u8]) {
        panic!("a store at {gpa:#x} exits");
    }
}

fn store(number: u64, gpa: u64) -> Access {
    Access {
        gpa,
        size: 8,
        kind: AccessKind::Write(number),
        private: None,
        how: How::Direct,
        tries: 1,
    }
}

fn ram(gpa: u64, size: u64, memory: &Arc<HostMapping>) -> SlotRange {
    let memory = memory.host_memory().slice(0, size);
    let backing = SlotBacking::Host(memory.expect("it has as many bytes"));
    SlotRange::new(gpa, SlotAccess::ReadWrite, backing).expect("it does not wrap")
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
