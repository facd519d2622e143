// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM of the real KVM.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use kvm_bindings::{kvm_pre_fault_memory, kvm_userspace_memory_region2};
use kvm_ioctls::{Kvm, VcpuFd};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{FileCall, PreFault, Sharing, VmType};
use kvm_slots::{Errno, KvmVm};
use vmm::guest::poke::{Order, Poke};
use vmm::guest::{GuestError, Processor, VcpuGuest};

use super::{
    Arena, Expected, FileMapping, LentDevice, Pin, REACHABLE, STUB, Subject, file_calls, pin,
};

/// `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)`: kvm-ioctls 0.25 lacks it.
const KVM_PRE_FAULT_MEMORY: libc::Ioctl = 0xc040_aed5u32 as libc::Ioctl;

/// A VM of the real KVM.
#[derive(Debug)]
pub struct Real {
    vm: KvmVm,
    vm_type: VmType,
    physical_bits: u32,
    guest: Option<Guest>,
    device: Option<LentDevice>,
}

#[derive(Debug)]
struct Guest {
    vcpu: VcpuGuest,
    poke: Poke,
    /// The guest's code. Declared after `vcpu`, so that it is dropped later.
    _memory: Arena,
}

impl Real {
    /// A VM of this type, with or without a guest.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub fn new(vm_type: VmType, guest: bool) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {}", Errno::from(error)))?;
        let processor = Processor::probe(&kvm).map_err(|e| e.to_string())?;
        let vm = match vm_type {
            VmType::Plain => processor.plain_vm(&kvm),
            VmType::SwProtected => processor.private_vm(&kvm),
        };
        let mut real = Self {
            vm: vm.map_err(|error| format!("a VM: {error}"))?,
            vm_type,
            physical_bits: processor.physical_bits(),
            guest: None,
            device: None,
        };
        if guest {
            let guest = real.start(&processor);
            real.guest = Some(guest.map_err(|e| format!("a guest: {e}"))?);
        }
        Ok(real)
    }

    /// The width of guest-physical addresses, in bits.
    pub fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    /// Runs the code at `code` in the guest's memory until it reports that an
    /// access is done. The registers of the address and of the value hold the
    /// virtual address of `gpa`, and `value`. Returns the register of the value,
    /// and where it failed.
    pub fn run(
        &mut self,
        (code, gpa, value): (u64, u64, u64),
        vmm: &mut dyn MmioHandler,
    ) -> (u64, Result<(), GuestError>) {
        let guest = self.guest.as_mut().expect("a VM with a guest");
        let order = Order {
            pc: guest.poke.address(code),
            address: guest.poke.address(gpa),
            value,
            count: 0,
        };
        match guest.vcpu.poke(order, vmm) {
            Ok(value) => (value, Ok(())),
            Err(error) => {
                let value = guest.vcpu.value().expect("registers");
                (value, Err(error))
            }
        }
    }

    /// The guest loads 4 bytes `times` times in a row. Returns the last value.
    ///
    /// # Errors
    /// The error of `KVM_RUN`. The guest continues after the loads.
    pub fn loads(
        &mut self,
        gpa: u64,
        count: u32,
        vmm: &mut dyn MmioHandler,
    ) -> Result<u32, GuestError> {
        let guest = self.guest.as_mut().expect("a VM with a guest");
        let order = guest.poke.loads(gpa, count);
        let in_register = guest.vcpu.poke(order, vmm)?;
        Ok(u32::try_from(in_register & u64::from(u32::MAX)).expect("four bytes"))
    }

    /// The guest's vCPU.
    pub fn vcpu(&self) -> &VcpuFd {
        self.guest.as_ref().expect("a VM with a guest").vcpu.vcpu()
    }

    fn start(&self, processor: &Processor) -> Result<Guest, Errno> {
        let poke = Poke::new(&processor.code(), STUB, REACHABLE);
        let pages = Poke::SIZE / self.page_size();
        let memory = self.arena(usize::try_from(pages).expect("a few"));
        memory.write(0, &poke.stub.image)?;
        let region = kvm_userspace_memory_region2 {
            slot: self.own_slot(),
            guest_phys_addr: STUB,
            memory_size: Poke::SIZE,
            userspace_addr: memory.address(0),
            ..Default::default()
        };
        // SAFETY: the memory is the guest's own, and is dropped after the vCPU.
        unsafe { self.set(&region, true) }?;
        let vcpu = VcpuGuest::new(self.vm.fd(), processor, &poke.stub)?;
        Ok(Guest {
            vcpu,
            poke,
            _memory: memory,
        })
    }
}

impl Subject for Real {
    type Vm = KvmVm;

    fn another(&self, guest: bool) -> Result<Self, String> {
        Self::new(self.vm_type, guest)
    }

    fn vm(&self) -> &KvmVm {
        &self.vm
    }

    fn vm_type(&self) -> VmType {
        self.vm_type
    }

    fn expected(&self) -> Expected {
        Expected::HERE
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.vm.fd().as_raw_fd())
    }

    fn file_call(&self, file: BorrowedFd<'_>, call: FileCall) -> Result<(), Errno> {
        file_calls::call(file, call)
    }

    fn map_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        sharing: Sharing,
    ) -> Result<FileMapping, Errno> {
        file_calls::map(file, offset, size, sharing)
    }

    fn pin(&self, file: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Pin, Errno> {
        let mapping = self.map_file(file, offset, size, Sharing::Shared)?;
        pin::in_a_pipe(mapping.address(), size)
    }

    fn lend_device(&mut self) -> Result<(), String> {
        self.device = Some(LentDevice::open()?);
        Ok(())
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(LentDevice::file)
    }

    fn set_answering(&self, on: bool) -> Result<(), String> {
        let device = self.device.as_ref();
        device.map_or(Ok(()), |device| device.set_answering(on))
    }

    /// Runs the vCPU once before. If a slot was deleted since the last run,
    /// Linux 6.12 would stay in this ioctl forever, waiting for work that only
    /// `KVM_RUN` does.
    fn pre_fault(&mut self, range: &mut PreFault) -> Result<(), Errno> {
        let own = self.access(STUB, 1, None, &mut Unexpected);
        own.expect("the guest reaches its own memory");
        let guest = self.guest.as_ref().expect("a VM with a guest");
        let mut left = kvm_pre_fault_memory {
            gpa: range.gpa,
            size: range.size,
            flags: range.flags,
            ..Default::default()
        };
        let fd = guest.vcpu.vcpu().as_raw_fd();
        // SAFETY: the vCPU is open, and `left` is the structure that this ioctl
        // reads and updates.
        let result = unsafe { libc::ioctl(fd, KVM_PRE_FAULT_MEMORY, &raw mut left) };
        (range.gpa, range.size) = (left.gpa, left.size);
        if result < 0 {
            Err(Errno::last())
        } else {
            Ok(())
        }
    }

    fn access(
        &mut self,
        gpa: u64,
        size: usize,
        value: Option<u64>,
        vmm: &mut dyn MmioHandler,
    ) -> Result<u64, GuestError> {
        let guest = self.guest.as_mut().expect("a VM with a guest");
        let order = match value {
            None => guest.poke.load(gpa, size),
            Some(value) => guest.poke.store(gpa, size, value),
        };
        let in_register = guest.vcpu.poke(order, vmm)?;
        Ok(match value {
            // The upper bytes are left from the register's old value.
            None => in_register & (u64::MAX >> (64 - 8 * size)),
            Some(_) => 0,
        })
    }
}

/// Panics on any exit: the guest's own memory causes none.
struct Unexpected;

impl MmioHandler for Unexpected {
    fn mmio_read(&mut self, gpa: u64, _data: &mut [u8]) {
        panic!("an exit at {gpa:#x}");
    }

    fn mmio_write(&mut self, gpa: u64, _data: &[u8]) {
        panic!("an exit at {gpa:#x}");
    }
}
