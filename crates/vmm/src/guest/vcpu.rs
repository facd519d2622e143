// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest of the real KVM: a vCPU that runs the stub.

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use kvm_slots::Errno;
use kvm_slots::exit::{GuestFault, MmioHandler};

use super::no_device::no_device;
use super::poke::Order;
use super::stub::Stub;
use super::{Guest, GuestError, Processor, native};
use crate::machine::{Access, AccessKind};

/// What follows an exit that ends an access: the value of the vCPU's register, or
/// an error.
pub(super) type Ending = fn(&mut VcpuFd) -> Result<u64, GuestError>;

/// Runs a stub on a vCPU.
#[derive(Debug)]
pub struct VcpuGuest {
    vcpu: VcpuFd,
    /// Where the code of each access starts; the next one's is at `next`.
    entries: Vec<u64>,
    next: usize,
}

impl VcpuGuest {
    /// A vCPU of `vm` that is about to run `stub`, which is in its memory.
    ///
    /// # Errors
    /// The error of KVM.
    pub fn new(vm: &VmFd, processor: &Processor, stub: &Stub) -> Result<Self, Errno> {
        let mut guest = Self {
            vcpu: processor.vcpu(vm, stub)?,
            entries: stub.entries.clone(),
            next: 0,
        };
        guest.go_to(0)?;
        Ok(guest)
    }

    /// The vCPU's descriptor, for its dirty ring.
    pub fn vcpu(&self) -> &VcpuFd {
        &self.vcpu
    }

    /// The register of the value, which a failed access was about to store.
    ///
    /// # Errors
    /// KVM's error when the register is read.
    pub fn value(&self) -> Result<u64, Errno> {
        native::value(&self.vcpu)
    }

    /// Sets the vCPU to before the access of this number.
    fn go_to(&mut self, number: usize) -> Result<(), Errno> {
        let pc = *self.entries.get(number).ok_or(Errno::EINVAL)?;
        let order = Order {
            pc,
            ..Order::default()
        };
        native::set_order(&self.vcpu, order)
    }

    /// Makes an access of a [`Poke`](super::poke::Poke) with whose stub this vCPU
    /// was created. Returns the register of the value after it.
    ///
    /// # Errors
    /// [`GuestError`]. The next access can still be made.
    pub fn poke(&mut self, order: Order, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        native::set_order(&self.vcpu, order).map_err(|e| stopped(&e))?;
        self.run(vmm)
    }

    /// Runs until the access is done.
    fn run(&mut self, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) => match Errno::from(error) {
                    Errno::EINTR | Errno::EAGAIN => continue,
                    Errno::ENODEV => return Err(no_device(self.vcpu.get_kvm_run()).into()),
                    errno => return Err(GuestFault::Failed(errno).into()),
                },
            };
            let end: Ending = match exit {
                VcpuExit::MmioRead(gpa, data) => {
                    vmm.mmio_read(gpa, data);
                    continue;
                }
                VcpuExit::MmioWrite(gpa, data) => {
                    vmm.mmio_write(gpa, data);
                    continue;
                }
                VcpuExit::MemoryFault { flags, gpa, size } => {
                    return Err(GuestFault::Memory { flags, gpa, size }.into());
                }
                VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => {
                    return Err(GuestFault::DirtyRingFull.into());
                }
                other => native::ending(&other).ok_or_else(|| stopped(&other))?,
            };
            return end(&mut self.vcpu);
        }
    }
}

impl Guest for VcpuGuest {
    fn access(&mut self, access: &Access, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        let result = self.run(vmm);
        if let Err(GuestError::Fault(GuestFault::DirtyRingFull | GuestFault::Memory { .. })) =
            result
        {
            // The vCPU has not moved, and can retry the access.
            return result;
        }
        match result {
            // After a store the register holds the stored value.
            Ok(value) => {
                self.next += 1;
                Ok(match access.kind {
                    AccessKind::Read(_) => value,
                    AccessKind::Write(_) => 0,
                })
            }
            Err(error) => {
                self.skip()?;
                Err(error)
            }
        }
    }

    fn again(&mut self) -> Result<(), GuestError> {
        self.next = self.next.saturating_sub(1);
        self.go_to(self.next).map_err(|e| stopped(&e))
    }

    fn skip(&mut self) -> Result<(), GuestError> {
        self.next += 1;
        self.go_to(self.next).map_err(|e| stopped(&e))
    }
}

/// The vCPU stopped, for this reason.
pub(super) fn stopped(why: &dyn std::fmt::Debug) -> GuestError {
    GuestError::Stopped(format!("{why:?}"))
}
