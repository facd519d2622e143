// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM of the simulated KVM.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::Errno;
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{FileCall, PreFault, Sharing, SimConfig, SimVm, VmType};
use vmm::guest::GuestError;
use vmm::guest::poke::Poke;

use super::{Arena, DEVICE_PAGES, Expected, FileMapping, Pin, STUB, Subject};

/// A VM of the simulated KVM.
#[derive(Debug)]
pub struct Simulated {
    vm: SimVm,
    /// Stands for the guest's code, which has a slot on the real KVM.
    _memory: Option<Arena>,
    dma_buf: Option<OwnedFd>,
}

impl Simulated {
    /// A VM of this kernel, with or without a guest.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub fn new(config: SimConfig, guest: bool) -> Result<Self, String> {
        let mut simulated = Self {
            vm: SimVm::new(config),
            _memory: None,
            dma_buf: None,
        };
        if guest {
            let page_size = simulated.page_size();
            let memory_size = Poke::SIZE.next_multiple_of(page_size);
            let memory = simulated.arena(usize::try_from(memory_size / page_size).expect("a few"));
            let region = kvm_userspace_memory_region2 {
                slot: simulated.own_slot(),
                guest_phys_addr: STUB,
                memory_size,
                userspace_addr: memory.address(0),
                ..Default::default()
            };
            // SAFETY: the memory is the guest's own, and is dropped after the VM.
            let set = unsafe { simulated.set(&region, true) };
            set.map_err(|e| format!("a guest: {e}"))?;
            simulated._memory = Some(memory);
        }
        Ok(simulated)
    }
}

impl Subject for Simulated {
    type Vm = SimVm;

    fn another(&self, guest: bool) -> Result<Self, String> {
        Self::new(*self.vm.config(), guest)
    }

    fn vm(&self) -> &SimVm {
        &self.vm
    }

    fn vm_type(&self) -> VmType {
        self.vm.config().vm_type
    }

    fn expected(&self) -> Expected {
        Expected::on(self.vm.config().arch)
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }

    fn file_call(&self, file: BorrowedFd<'_>, call: FileCall) -> Result<(), Errno> {
        self.vm.file_call(file, call)
    }

    fn map_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        sharing: Sharing,
    ) -> Result<FileMapping, Errno> {
        let mapping = self.vm.map_file(file, offset, size, sharing)?;
        Ok(mapping.into())
    }

    fn pin(&self, file: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Pin, Errno> {
        // The host needs a mapping, and its accesses to other pages are SIGBUS.
        self.map_file(file, offset, size, Sharing::Shared)?;
        match self.vm.pin(file, offset, size) {
            Ok(pin) => Ok(Pin::Simulated(pin)),
            Err(Errno::EINVAL) => Err(Errno::EFAULT),
            Err(errno) => Err(errno),
        }
    }

    fn lend_device(&mut self) -> Result<(), String> {
        let made = self.vm.create_dma_buf(DEVICE_PAGES * self.page_size());
        self.dma_buf = Some(made.map_err(|e| e.to_string())?);
        Ok(())
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        self.dma_buf.as_ref().map(AsFd::as_fd)
    }

    fn set_answering(&self, on: bool) -> Result<(), String> {
        let file = self.dma_buf();
        let set = file.map_or(Ok(()), |file| self.vm.set_revoked(file, !on));
        set.map_err(|e| e.to_string())
    }

    fn pre_fault(&mut self, range: &mut PreFault) -> Result<(), Errno> {
        self.vm.pre_fault(range)
    }

    fn access(
        &mut self,
        gpa: u64,
        size: usize,
        value: Option<u64>,
        vmm: &mut dyn MmioHandler,
    ) -> Result<u64, GuestError> {
        let mut bytes = value.unwrap_or(0).to_le_bytes();
        match value {
            None => self.vm.guest_load(gpa, &mut bytes[..size], vmm)?,
            Some(_) => {
                self.vm.guest_store(gpa, &bytes[..size], vmm)?;
                return Ok(0);
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }
}
