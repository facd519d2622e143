// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest of the real KVM: a vCPU that runs the stub in 64-bit mode.

use kvm_bindings::{
    CpuId, KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_MEMORY_FAULT, KVM_MAX_CPUID_ENTRIES, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::Errno;
use kvm_slots::exit::{GuestFault, MmioHandler};

use super::poke::Order;
use super::stub::{DONE_PORT, Stub};
use super::{Guest, GuestError, ProcessorError};
use crate::machine::Access;

/// CR0: protection, extension type, paging.
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
/// CR4: physical address extension, which 64-bit mode needs.
const CR4: u64 = 1 << 5;
/// EFER: long mode, enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: the bit that is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// The features of the processor.
#[derive(Debug)]
pub struct Processor {
    cpuid: CpuId,
}

impl Processor {
    /// Asks KVM for them.
    ///
    /// # Errors
    /// [`ProcessorError::Cpuid`].
    pub fn probe(kvm: &Kvm) -> Result<Self, ProcessorError> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        match cpuid {
            Ok(cpuid) => Ok(Self { cpuid }),
            Err(error) => Err(ProcessorError::Cpuid(error.into())),
        }
    }

    /// The CPUID leaves that KVM supports.
    pub fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// The width of guest-physical addresses, in bits.
    pub fn physical_bits(&self) -> u32 {
        // CPUID 0x8000_0008, EAX bits 7:0 (AMD APM volume 3, Intel SDM 2A).
        let leaves = self.cpuid.as_slice();
        let leaf = leaves.iter().find(|leaf| leaf.function == 0x8000_0008);
        leaf.map_or(36, |leaf| leaf.eax & 0xff)
    }
}

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
        let vcpu = vm.create_vcpu(0)?;
        // Without CPUID, the vCPU has no 64-bit mode.
        vcpu.set_cpuid2(&processor.cpuid)?;
        let mut sregs = vcpu.get_sregs()?;
        sregs.cs = segment(0b1011, 8, true);
        let data = segment(0b0011, 16, false);
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        (sregs.fs, sregs.gs) = (data, data);
        sregs.cr0 = CR0;
        sregs.cr3 = stub.page_tables;
        sregs.cr4 = CR4;
        sregs.efer = EFER;
        vcpu.set_sregs(&sregs)?;
        let mut guest = Self {
            vcpu,
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

    /// The value of RAX, which a failed access was about to store.
    ///
    /// # Errors
    /// KVM's error when the registers are read.
    pub fn accumulator(&self) -> Result<u64, Errno> {
        Ok(self.vcpu.get_regs()?.rax)
    }

    /// Sets the vCPU to before the access of this number.
    fn go_to(&mut self, number: usize) -> Result<(), Errno> {
        let rip = *self.entries.get(number).ok_or(Errno::EINVAL)?;
        let (rdi, rax, rcx) = (0, 0, 0);
        self.tell(Order { rip, rdi, rax, rcx })
    }

    fn tell(&mut self, order: Order) -> Result<(), Errno> {
        self.vcpu.set_regs(&kvm_regs {
            rip: order.rip,
            rdi: order.rdi,
            rax: order.rax,
            rcx: order.rcx,
            rflags: RFLAGS,
            ..Default::default()
        })?;
        Ok(())
    }

    /// Makes an access of a [`Poke`](super::poke::Poke) with whose stub this vCPU
    /// was created. Returns the value of RAX after it.
    ///
    /// # Errors
    /// [`GuestError`]. The next access can still be made.
    pub fn poke(&mut self, order: Order, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        self.tell(order).map_err(|e| stopped(&e))?;
        self.run(vmm)
    }

    /// Runs until the access is done.
    fn run(&mut self, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) => match Errno::from(error) {
                    Errno::EINTR | Errno::EAGAIN => continue,
                    Errno::ENODEV => return Err(self.revoked().into()),
                    errno => return Err(GuestFault::Failed(errno).into()),
                },
            };
            match exit {
                VcpuExit::IoOut(port, _) if port == u16::from(DONE_PORT) => {
                    let regs = self.vcpu.get_regs().map_err(|e| stopped(&e))?;
                    return Ok(regs.rax);
                }
                VcpuExit::MmioRead(gpa, data) => vmm.mmio_read(gpa, data),
                VcpuExit::MmioWrite(gpa, data) => vmm.mmio_write(gpa, data),
                VcpuExit::MemoryFault { flags, gpa, size } => {
                    return Err(GuestFault::Memory { flags, gpa, size }.into());
                }
                VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => {
                    return Err(GuestFault::DirtyRingFull.into());
                }
                other => return Err(stopped(&other)),
            }
        }
    }
}

impl VcpuGuest {
    /// Why `KVM_RUN` failed with ENODEV: this project's kernel patch reports the
    /// address in the fields of another exit.
    fn revoked(&mut self) -> GuestFault {
        let run = self.vcpu.get_kvm_run();
        if run.exit_reason != KVM_EXIT_MEMORY_FAULT {
            return GuestFault::Failed(Errno::ENODEV);
        }
        // SAFETY: the exit's reason says that KVM has filled in this member, and any
        // bytes are three valid numbers.
        let fault = unsafe { run.__bindgen_anon_1.memory_fault };
        GuestFault::Revoked {
            flags: fault.flags,
            gpa: fault.gpa,
            size: fault.size,
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
                    crate::machine::AccessKind::Read(_) => value,
                    crate::machine::AccessKind::Write(_) => 0,
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

fn stopped(why: &dyn std::fmt::Debug) -> GuestError {
    GuestError::Stopped(format!("{why:?}"))
}

/// A flat segment of ring 0.
fn segment(type_: u8, selector: u16, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}
