// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated VM and its implementation of [`Vm`].

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_ranges::{PageRange, PageSize, RangeSet};
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};

use super::dirty::Dirty;
use super::files::{FileKind, Files};
use super::host;
use super::kernel::SimConfig;
use super::memslots::Memslots;
use super::mmio_entries::MmioEntries;
use super::pushed::Pushed;
use crate::abi::AbiProfile;
use crate::convert::Home;
use crate::push::{PushMap, PushPages};
use crate::vm::address_bits::AddressBits;
use crate::vm::caps::host_page_size;
use crate::vm::discard::{self, Discard};
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;
use crate::vm::interrupted::call_again;
use crate::vm::{GuestMemfdFlags, Vm};

/// A simulated VM. Clones are the same VM.
#[derive(Clone, Debug)]
pub struct SimVm {
    pub(super) config: SimConfig,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: SimConfig,
    pub(super) memslots: Memslots,
    /// The ranges that are mapped without a memslot.
    pub(super) pushed: Pushed,
    pub(super) files: Files,
    /// The private pages, unless files have the attributes.
    pub(super) private: RangeSet,
    /// The pages that the platform refuses to make private.
    pub(super) rejected: RangeSet,
    /// The private pages that the guest has not released.
    pub(super) held: RangeSet,
    pub(super) dirty: Dirty,
    pub(super) mmio_entries: MmioEntries,
    /// The number of memory ioctls to interrupt.
    interrupts: u32,
}

impl SimVm {
    /// A VM on a kernel, both chosen by `config`.
    pub fn new(config: SimConfig) -> Self {
        Self {
            config,
            state: Arc::new(Mutex::new(State::new(config))),
        }
    }

    /// `KVM_CREATE_VM` on the kernel of `config`: a VM of the type with this number,
    /// whatever `config.vm_type` is.
    ///
    /// # Errors
    /// EINVAL for a type that the kernel does not have: not in `KVM_CAP_VM_TYPES`, or
    /// a width of addresses that the processor does not have, where that is the type.
    pub fn create(config: SimConfig, vm_type: u64) -> Result<Self, Errno> {
        config
            .with_type(vm_type)
            .map(Self::new)
            .ok_or(Errno::EINVAL)
    }

    /// The simulated kernel and VM.
    pub fn config(&self) -> &SimConfig {
        &self.config
    }

    /// A dma-buf of `size` zero bytes, as VFIO exports one for a BAR.
    ///
    /// # Errors
    /// The host's error if the file cannot be created.
    pub fn create_dma_buf(&self, size: u64) -> Result<OwnedFd, Errno> {
        if size == 0 || !self.page_size().is_aligned(size) {
            return Err(Errno::EINVAL);
        }
        self.state()
            .files
            .create(FileKind::DmaBuf { revoked: false }, size)
    }

    /// Lets slots of this VM be on a dma-buf that another VM has made: a device outlives
    /// a VM. Each VM has to be told when the device does not answer.
    ///
    /// # Errors
    /// EBADF, or the host's error.
    pub fn adopt_dma_buf(&self, dma_buf: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
        let files = &mut self.state().files;
        files.adopt(dma_buf, FileKind::DmaBuf { revoked: false }, size)
    }

    /// Sets whether the device of a dma-buf does not answer: memory decoding is off,
    /// reset, D3.
    ///
    /// # Errors
    /// EBADF or EINVAL if the descriptor is not a dma-buf of this VM.
    pub fn set_revoked(&self, dma_buf: BorrowedFd<'_>, revoked: bool) -> Result<(), Errno> {
        let mut state = self.state();
        let fd = u32::from_ne_bytes(dma_buf.as_raw_fd().to_ne_bytes());
        let id = state.files.by_descriptor(fd)?;
        let file = state.files.get_mut(id).ok_or(Errno::EINVAL)?;
        match &mut file.kind {
            FileKind::DmaBuf { revoked: now } => *now = revoked,
            FileKind::GuestMemfd(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Simulates signals that interrupt the next `count` ioctls on memslots or
    /// attributes. They fail with EINTR and change nothing.
    pub fn interrupt(&self, count: u32) {
        self.state().interrupts = count;
    }

    /// Every change is one assignment, so a panic leaves no partial change.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_region(
        &self,
        region: &kvm_userspace_memory_region2,
        old_ioctl: bool,
    ) -> Result<(), Errno> {
        let state = &mut *self.state();
        state.begin_ioctl()?;
        let old = state.memslots.get(region.slot);
        state
            .memslots
            .set(&self.config, &state.files, region, old_ioctl)?;
        let new = state.memslots.get(region.slot);
        state.dirty.follow(region.slot, old, new);
        if old != new {
            state.mmio_entries.slots_changed();
        }
        Ok(())
    }
}

impl State {
    fn new(config: SimConfig) -> Self {
        Self {
            config,
            memslots: Memslots::default(),
            pushed: Pushed::default(),
            files: Files::default(),
            private: RangeSet::default(),
            rejected: RangeSet::default(),
            held: RangeSet::default(),
            dirty: Dirty::new(config.page_size),
            mmio_entries: MmioEntries::default(),
            interrupts: 0,
        }
    }

    /// The kernel's page size in bytes.
    pub(super) fn page_size(&self) -> u64 {
        self.config.page_size.bytes()
    }

    /// The first address of the page with this address.
    pub(super) fn page_of(&self, gpa: u64) -> u64 {
        gpa & !(self.page_size() - 1)
    }

    fn begin_ioctl(&mut self) -> Result<(), Errno> {
        match self.interrupts.checked_sub(1) {
            Some(left) => {
                self.interrupts = left;
                Err(Errno::EINTR)
            }
            None => Ok(()),
        }
    }
}

impl Vm for SimVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.config.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        match self.config.has_region2() {
            true => call_again(|| self.set_region(region, false)),
            false => Err(self.config.rules().unknown_ioctl),
        }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region2 {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
            ..Default::default()
        };
        call_again(|| self.set_region(&region, true))
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        if !self.config.knows_guest_memfd() {
            return Err(self.config.rules().unknown_ioctl);
        }
        let known =
            self.config.has_guest_memfd() && self.config.guest_memfd_flags().contains(flags);
        if !known || size == 0 || !self.page_size().is_aligned(size) || i64::try_from(size).is_err()
        {
            return Err(Errno::EINVAL);
        }
        self.state().files.create(FileKind::GuestMemfd(flags), size)
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        if !self.config.has_attributes() {
            return Err(self.config.rules().unknown_ioctl);
        }
        let unknown = attributes & !self.config.attributes() != 0;
        let pages = PageRange::new(gpa, size).map_err(|_| Errno::EINVAL)?;
        if unknown {
            return Err(Errno::EINVAL);
        }
        call_again(|| {
            let state = &mut *self.state();
            state.begin_ioctl()?;
            match attributes {
                0 => state.private.remove(pages.into()),
                _ => state.private.insert(pages.into()),
            }
            Ok::<(), Errno>(())
        })
    }

    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        self.change_file(file, offset, size, attributes)
    }

    fn push_pages(&self) -> Option<&dyn PushPages> {
        match self.config.home {
            Home::Platform => Some(self),
            _ => None,
        }
    }

    fn page_size(&self) -> PageSize {
        self.config.page_size
    }

    fn address_bits(&self) -> Option<AddressBits> {
        Some(AddressBits::Exact(self.config.physical_bits))
    }

    fn push_map(&self) -> Option<&dyn PushMap> {
        match self.config.abi {
            AbiProfile::Push => Some(self),
            _ => None,
        }
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        match what {
            // The host's pages are larger, and a part of one cannot be freed. Zeros are
            // what the guest finds either way.
            Discard::Host { address, size } if !host_page_size().is_aligned(address | size) => {
                // SAFETY: passed on from the caller.
                unsafe { host::store_zeros(address, size) }
            }
            // SAFETY: passed on from the caller.
            _ => unsafe { discard::perform(what) },
        }
    }
}
