// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated kernels that use a profile's flag for something else, or that have an error
//! in the ABI of a profile.

use std::os::fd::{AsRawFd, OwnedFd};

use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_slots::push::{PushMap, PushedRange, Released};
use kvm_slots::sim::{SimMemslot, SimVm};
use kvm_slots::{Errno, GuestMemfdFlags, PageSize, Vm};

type Region = kvm_userspace_memory_region2;

/// The quirk of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// The bit is an attribute of a plain slot, as `KVM_MEM_NON_COHERENT_DMA`.
    Attribute,
    /// The bit announces the address of a bitmap in `pad2[0]`, as
    /// `KVM_MEM_USERFAULT`.
    Bitmap,
    /// Flags that it does not know are dropped without a word.
    DropsUnknown,
    /// The flag is there, and file and offset are never looked at.
    IgnoresFile,
    /// Any file will do.
    TakesAnyFile,
    /// The end of the file is not checked.
    TakesAnyOffset,
    /// A slice is no good.
    WholeOnly,
    /// A slot on a file can move.
    Mutable,
    /// Other flags together with the ABI's are ignored.
    DropsOthers,
    /// A host address together with a file is ignored.
    DropsAddress,
    /// Deleting a slot that does not exist succeeds.
    DeletesNothing,
    /// A slot on a file cannot be deleted.
    Sticky,
    /// Push-style: every call succeeds.
    PushesAnything,
    /// Push-style: mapped addresses can be mapped again.
    PushesTwice,
    /// Push-style: the platform never acknowledges a release.
    NeverReleases,
}

/// A simulated kernel with a quirk of one flag. It reports every capability.
#[derive(Debug)]
pub struct Contested {
    pub vm: SimVm,
    pub flag: u32,
    pub quirk: Quirk,
    /// A dma-buf, in place of one that it does not mind.
    pub any_file: OwnedFd,
}

impl Contested {
    pub fn new(vm: SimVm, flag: u32, quirk: Quirk) -> Self {
        let any_file = vm.create_dma_buf(0x10_0000).expect("a dma-buf");
        Self {
            vm,
            flag,
            quirk,
            any_file,
        }
    }

    /// The region that a kernel without the quirk would do the same for.
    fn translated(&self, region: &Region) -> Result<Region, Errno> {
        let any_file = u32::try_from(self.any_file.as_raw_fd()).expect("an open file");
        let mut region = *region;
        let with_flag = region.flags & self.flag != 0;
        match self.quirk {
            Quirk::Attribute => region.flags &= !self.flag,
            Quirk::Bitmap if with_flag && region.pad2[0] % 8 != 0 => return Err(Errno::EINVAL),
            Quirk::Bitmap => region.flags &= !self.flag,
            Quirk::DropsUnknown => region.flags &= KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
            Quirk::IgnoresFile => {
                region.pad1 = any_file;
                region.pad2[0] = 0;
            }
            Quirk::TakesAnyFile if with_flag && open(region.pad1) => {
                region.pad1 = any_file;
                region.pad2[0] %= 0x1000;
            }
            Quirk::TakesAnyOffset => region.pad2[0] %= 0x1000,
            Quirk::WholeOnly if with_flag && region.pad2[0] != 0 => return Err(Errno::EINVAL),
            Quirk::DropsOthers if with_flag => region.flags = self.flag,
            Quirk::DropsAddress if with_flag => region.userspace_addr = 0,
            _ => {}
        }
        Ok(region)
    }
}

fn open(fd: u32) -> bool {
    std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists()
}

impl Vm for Contested {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability).max(1)
    }

    unsafe fn set_user_memory_region2(&self, region: &Region) -> Result<(), Errno> {
        let translated = self.translated(region)?;
        let is_it = |slot: &SimMemslot| {
            slot.id.map(u32::from) == Some(region.slot) && slot.file_offset.is_some()
        };
        let on_file = self.vm.memslots().iter().any(is_it);
        if on_file && region.memory_size == 0 && self.quirk == Quirk::Sticky {
            return Err(Errno::EBUSY);
        }
        // SAFETY: passed on from the caller.
        let result = unsafe { self.vm.set_user_memory_region2(&translated) };
        match self.quirk {
            Quirk::DeletesNothing if region.memory_size == 0 => Ok(()),
            Quirk::Mutable if on_file => Ok(()),
            _ => result,
        }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.vm.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.vm.set_memory_attributes(gpa, size, attributes)
    }
    fn push_map(&self) -> Option<&dyn PushMap> {
        self.vm.push_map().is_some().then_some(self)
    }
}

impl PushMap for Contested {
    fn map(&self, range: &PushedRange) -> Result<(), Errno> {
        match (self.vm.map(range), self.quirk) {
            (Err(_), Quirk::PushesAnything) => Ok(()),
            (Err(Errno::EEXIST), Quirk::PushesTwice) => Ok(()),
            (result, _) => result,
        }
    }

    fn unmap(&self, range: &PushedRange) -> Result<Released, Errno> {
        if self.quirk == Quirk::NeverReleases {
            return Ok(Released::Pending);
        }
        match self.vm.unmap(range) {
            Err(Errno::ENOENT) if self.quirk == Quirk::PushesAnything => Ok(Released::Done),
            result => result,
        }
    }
}
