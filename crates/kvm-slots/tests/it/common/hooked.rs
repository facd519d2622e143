// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM with hooks in its dirty tracking ioctls, and a ring of entries that no
//! kernel wrote.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::dirty::{DirtyEntry, DirtyRing, LoggingVm, ManualProtect};
use kvm_slots::sim::SimVm;
use kvm_slots::{Errno, GuestMemfdFlags, PageSize, Vm};

/// The ioctls of dirty tracking at which hooks are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyIoctl {
    Get,
    Clear,
    Reset,
}

/// Hooks in a VM's ioctls. By default there is no ioctl for memslots, and the others are
/// the simulated kernel's.
pub trait Hooks: Debug + Send + Sync {
    /// The value of a capability that the simulated kernel has no say in.
    fn extension(&self, _capability: u32) -> Option<i32> {
        None
    }

    /// Before an ioctl for a memslot, which does not happen after an error.
    fn before_memslot(&self) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    /// Before an ioctl of dirty tracking, which does not happen after an error.
    fn before(&self, _ioctl: DirtyIoctl) -> Result<(), Errno> {
        Ok(())
    }

    /// After such an ioctl.
    fn after(&self) {}

    /// Whether the reset that is due does nothing.
    fn is_idle(&self) -> bool {
        false
    }
}

/// A simulated VM with hooks.
#[derive(Debug)]
pub struct Hooked<H> {
    sim: SimVm,
    pub hooks: Arc<H>,
}

impl<H> Clone for Hooked<H> {
    fn clone(&self) -> Self {
        Self::new(self.sim.clone(), self.hooks.clone())
    }
}

impl<H> Hooked<H> {
    pub fn new(sim: SimVm, hooks: Arc<H>) -> Self {
        Self { sim, hooks }
    }
}

impl<H: Hooks> Hooked<H> {
    fn around<R>(
        &self,
        what: DirtyIoctl,
        ioctl: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.hooks.before(what)?;
        let result = ioctl();
        self.hooks.after();
        result
    }
}

impl<H: Hooks> Vm for Hooked<H> {
    fn check_extension(&self, capability: u32) -> i32 {
        let hooked = self.hooks.extension(capability);
        hooked.unwrap_or_else(|| self.sim.check_extension(capability))
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        self.hooks.before_memslot()?;
        // SAFETY: passed on from the caller.
        unsafe { self.sim.set_user_memory_region2(region) }
    }

    unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn page_size(&self) -> PageSize {
        PageSize::Size4K
    }

    fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }
}

impl<H: Hooks> LoggingVm for Hooked<H> {
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno> {
        self.sim.set_manual_protect(options)
    }

    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno> {
        self.sim.enable_dirty_ring(bytes)
    }

    fn enable_log_beside_ring(&self) -> Result<(), Errno> {
        self.sim.enable_log_beside_ring()
    }

    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno> {
        self.around(DirtyIoctl::Get, || self.sim.get_dirty_log(slot))
    }

    fn clear_dirty_log(&self, slot: u32, first: u64, num: u32, log: &[u64]) -> Result<(), Errno> {
        let clear = || self.sim.clear_dirty_log(slot, first, num, log);
        self.around(DirtyIoctl::Clear, clear)
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.around(DirtyIoctl::Reset, || match self.hooks.is_idle() {
            true => Ok(0),
            false => self.sim.reset_dirty_rings(),
        })
    }
}

/// A ring that has these entries, the last one first, and then skips one or not.
#[derive(Debug)]
pub struct PaperRing {
    pub entries: Vec<DirtyEntry>,
    pub skipped: Option<usize>,
}

impl DirtyRing for PaperRing {
    fn harvest(&mut self) -> Option<DirtyEntry> {
        self.entries.pop()
    }

    fn skipped(&self) -> Option<usize> {
        self.skipped
    }
}
