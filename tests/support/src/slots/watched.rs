// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VMs for tests: one that accepts every ioctl and keeps nothing, and one that
//! passes ioctls on, fails some of them, and records the results.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_slots::push::{PushMap, PushedRange, Released};
use kvm_slots::{AddressBits, Errno, GuestMemfdFlags, PageSize, Slot, SlotAccess, SlotBacking, Vm};

/// Accepts every memslot and keeps none.
#[derive(Debug)]
pub struct Paper;

impl Vm for Paper {
    fn check_extension(&self, _capability: u32) -> i32 {
        0
    }

    unsafe fn set_user_memory_region2(
        &self,
        _region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn set_user_memory_region(
        &self,
        _region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn create_guest_memfd(&self, _size: u64, _flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn page_size(&self) -> PageSize {
        PageSize::Size4K
    }

    fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }
}

/// A memslot as in the ioctl: address, size, flags, host address, and
/// descriptor and offset of the file.
pub type SlotFields = (u64, u64, u32, u64, u32, u64);

/// Passes memslot ioctls on to `vm`.
#[derive(Debug)]
pub struct Watched<V> {
    /// The wrapped VM.
    pub vm: V,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    calls: Vec<Result<(), Errno>>,
    fail: BTreeMap<usize, Errno>,
    slots: BTreeMap<u32, SlotFields>,
    pushed: BTreeMap<u64, PushedRange>,
    private: BTreeSet<u64>,
    old_ioctls: usize,
}

impl<V: Vm> Watched<V> {
    /// Wraps `vm`.
    pub fn new(vm: V) -> Self {
        Self {
            vm,
            notes: Mutex::default(),
        }
    }

    /// Starts counting calls from zero, and fails those with the numbers in
    /// `fail`.
    pub fn start(&self, fail: impl IntoIterator<Item = (usize, Errno)>) {
        let mut notes = self.notes();
        notes.calls.clear();
        notes.fail = fail.into_iter().collect();
    }

    /// The result of each call since the start.
    pub fn calls(&self) -> Vec<Result<(), Errno>> {
        self.notes().calls.clone()
    }

    /// The memslots, by the results of the calls.
    pub fn slots(&self) -> BTreeMap<u32, SlotFields> {
        self.notes().slots.clone()
    }

    /// What was mapped without a memslot, by guest-physical address.
    pub fn pushed(&self) -> BTreeMap<u64, PushedRange> {
        self.notes().pushed.clone()
    }

    /// The private pages.
    pub fn private(&self) -> BTreeSet<u64> {
        self.notes().private.clone()
    }

    /// The total number of memslot ioctls of the older kind.
    pub fn old_ioctls(&self) -> usize {
        self.notes().old_ioctls
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no test panics with the lock")
    }

    fn try_call<T>(&self, pass_on: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let mut notes = self.notes();
        let number = notes.calls.len();
        let result = match notes.fail.get(&number) {
            Some(&errno) => Err(errno),
            None => pass_on(),
        };
        notes
            .calls
            .push(result.as_ref().map(|_| ()).map_err(|errno| *errno));
        result
    }

    fn call(
        &self,
        region: &kvm_userspace_memory_region2,
        pass_on: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let result = self.try_call(pass_on);
        let mut notes = self.notes();
        if result.is_ok() {
            match region.memory_size {
                0 => notes.slots.remove(&region.slot),
                _ => notes.slots.insert(region.slot, fields(region)),
            };
        }
        result
    }
}

impl<V: Vm + Debug + Send + Sync> PushMap for Watched<V> {
    fn map(&self, range: &PushedRange) -> Result<(), Errno> {
        let push = self.vm.push_map().ok_or(Errno::EOPNOTSUPP)?;
        self.try_call(|| push.map(range))?;
        self.notes().pushed.insert(range.gpa, range.clone());
        Ok(())
    }

    fn unmap(&self, range: &PushedRange) -> Result<Released, Errno> {
        let push = self.vm.push_map().ok_or(Errno::EOPNOTSUPP)?;
        let released = self.try_call(|| push.unmap(range))?;
        if released == Released::Done {
            self.notes().pushed.remove(&range.gpa);
        }
        Ok(released)
    }
}

impl<V: Vm + Debug + Send + Sync> Vm for Watched<V> {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        self.call(region, || unsafe {
            self.vm.set_user_memory_region2(region)
        })
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        let same = kvm_userspace_memory_region2 {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
            ..Default::default()
        };
        self.notes().old_ioctls += 1;
        // SAFETY: passed on from the caller.
        self.call(&same, || unsafe { self.vm.set_user_memory_region(region) })
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.vm.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.try_call(|| self.vm.set_memory_attributes(gpa, size, attributes))?;
        for page in (gpa..gpa + size).step_by(0x1000) {
            let private = &mut self.notes().private;
            match attributes {
                0 => private.remove(&page),
                _ => private.insert(page),
            };
        }
        Ok(())
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.vm.address_bits()
    }

    fn push_map(&self) -> Option<&dyn PushMap> {
        self.vm.push_map().is_some().then_some(self)
    }
}

fn fields(region: &kvm_userspace_memory_region2) -> SlotFields {
    let (fd, offset) = match region.pad1 {
        0 => (region.guest_memfd, region.guest_memfd_offset),
        fd => (fd, region.pad2[0]),
    };
    (
        region.guest_phys_addr,
        region.memory_size,
        region.flags,
        region.userspace_addr,
        fd,
        offset,
    )
}

/// The ioctl that should have created a slot, with a profile that has this
/// flag.
pub fn of_slot(slot: &Slot, flag: u32) -> SlotFields {
    let mut flags = match slot.backing() {
        SlotBacking::Host(_) => 0,
        SlotBacking::GuestMemfd { .. } => KVM_MEM_GUEST_MEMFD,
        SlotBacking::FdOffset(_) => flag,
        unknown => panic!("{unknown}: the oracle does not know it"),
    };
    if slot.log_dirty() {
        flags |= KVM_MEM_LOG_DIRTY_PAGES;
    }
    if slot.access() == SlotAccess::ReadOnly {
        flags |= KVM_MEM_READONLY;
    }
    let address = slot.backing().host().map_or(0, |host| host.address());
    let file = slot.backing().file();
    let fd = file.map_or(0, |file| u32::try_from(file.fd()).expect("an open file"));
    let offset = file.map_or(0, |file| file.offset());
    (slot.gpa(), slot.size(), flags, address, fd, offset)
}
