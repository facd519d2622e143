// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs that start in 64-bit mode.

use kvm_bindings::{CpuId, KVM_CAP_VM_TYPES, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::{Code, DONE_PORT};
use crate::guest::poke::Order;
use crate::guest::stub::Stub;
use crate::guest::vcpu::{Ending, stopped};
use crate::guest::{ProcessorError, VmError};

/// `KVM_X86_SW_PROTECTED_VM` (arch/x86/include/uapi/asm/kvm.h).
const SW_PROTECTED_VM: u64 = 1;

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
    /// KVM decodes the instruction, and emulates all of it.
    pub const SPLITS_ACCESSES: bool = true;

    /// Asks KVM for them.
    ///
    /// # Errors
    /// [`ProcessorError::Features`].
    pub fn probe(kvm: &Kvm) -> Result<Self, ProcessorError> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        match cpuid {
            Ok(cpuid) => Ok(Self { cpuid }),
            Err(error) => Err(ProcessorError::Features(error.into())),
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

    /// Does nothing: VMs have all of the processor's addresses.
    pub fn reach(&mut self, _bits: u32) {}

    /// The machine code for this processor.
    pub fn code(&self) -> Code {
        Code
    }

    /// A VM without private pages.
    ///
    /// # Errors
    /// [`VmError::Refused`].
    pub fn plain_vm(&self, kvm: &Kvm) -> Result<KvmVm, VmError> {
        Ok(KvmVm::create(kvm, 0)?)
    }

    /// A VM with private pages that needs no special hardware.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn private_vm(&self, kvm: &Kvm) -> Result<KvmVm, VmError> {
        let types = kvm.check_extension_raw(KVM_CAP_VM_TYPES.into());
        match u64::try_from(types).unwrap_or(0) & 1 << SW_PROTECTED_VM {
            0 => Err(VmError::NoPrivatePages("KVM_X86_SW_PROTECTED_VM")),
            _ => Ok(KvmVm::create(kvm, SW_PROTECTED_VM)?),
        }
    }

    /// A vCPU of `vm` with the page tables of `stub`.
    ///
    /// # Errors
    /// The error of KVM.
    pub(in crate::guest) fn vcpu(&self, vm: &VmFd, stub: &Stub) -> Result<VcpuFd, Errno> {
        let vcpu = vm.create_vcpu(0)?;
        // Without CPUID, the vCPU has no 64-bit mode.
        vcpu.set_cpuid2(&self.cpuid)?;
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
        Ok(vcpu)
    }
}

/// Sets the vCPU to before an access.
pub(in crate::guest) fn set_order(vcpu: &VcpuFd, order: Order) -> Result<(), Errno> {
    vcpu.set_regs(&kvm_regs {
        rip: order.pc,
        rdi: order.address,
        rax: order.value,
        rcx: order.count,
        rflags: RFLAGS,
        ..Default::default()
    })?;
    Ok(())
}

/// The register of the value.
pub(in crate::guest) fn value(vcpu: &VcpuFd) -> Result<u64, Errno> {
    Ok(vcpu.get_regs()?.rax)
}

/// What follows this exit, if it ends an access. KVM completes the `out` when the
/// vCPU runs again.
pub(in crate::guest) fn ending(exit: &VcpuExit<'_>) -> Option<Ending> {
    match exit {
        VcpuExit::IoOut(port, _) if *port == u16::from(DONE_PORT) => {
            Some(|vcpu| value(vcpu).map_err(|e| stopped(&e)))
        }
        _ => None,
    }
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
