// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs that start at EL1 with the MMU on.

use std::mem::offset_of;

use kvm_bindings::{
    KVM_CAP_ARM_NISV_TO_USER, KVM_CAP_ARM_VM_IPA_SIZE, KVM_EXIT_ARM_NISV, KVM_GUESTDBG_ENABLE,
    KVM_GUESTDBG_USE_SW_BP, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG,
    KVM_REG_SIZE_U64, kvm_debug_exit_arch, kvm_enable_cap, kvm_guest_debug, kvm_regs,
    kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::asm::{SystemRegister, X};
use super::translation::{Granule, MAIR, MOST_BITS, SCTLR};
use super::{ADDRESS, COUNT, Code, DONE, EXCEPTION, VALUE};
use crate::guest::poke::Order;
use crate::guest::stub::Stub;
use crate::guest::vcpu::{Ending, stopped};
use crate::guest::{GuestError, ProcessorError, VmError};

const ID_AA64MMFR0_EL1: SystemRegister = SystemRegister::new(3, 0, 0, 7, 0);
const SCTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 1, 0, 0);
const TTBR0_EL1: SystemRegister = SystemRegister::new(3, 0, 2, 0, 0);
const TCR_EL1: SystemRegister = SystemRegister::new(3, 0, 2, 0, 2);
const ESR_EL1: SystemRegister = SystemRegister::new(3, 0, 5, 2, 0);
const FAR_EL1: SystemRegister = SystemRegister::new(3, 0, 6, 0, 0);
const MAIR_EL1: SystemRegister = SystemRegister::new(3, 0, 10, 2, 0);
const VBAR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 0, 0);

/// PSTATE: EL1 with its own stack pointer; exceptions that can be masked are.
const PSTATE: u64 = 0b1111 << 6 | 0b0101;

/// The width of guest-physical addresses in VMs of type 0.
const DEFAULT_BITS: u32 = 40;

/// The exception class of `brk` in a syndrome (Arm ARM, ESR_EL2).
const CLASS_BRK: u32 = 0x3c;

/// The features of the processor.
#[derive(Debug)]
pub struct Processor {
    bits: u32,
    /// The largest width that a VM can have.
    most: u32,
    /// ID_AA64MMFR0_EL1 of the vCPUs.
    features: u64,
    granule: Granule,
}

impl Processor {
    /// KVM knows of an access what the syndrome says: its size and register, and the
    /// first byte that faults (`io_mem_abort` in arch/arm64/kvm/mmio.c).
    pub const SPLITS_ACCESSES: bool = false;

    /// Asks KVM for them, and a vCPU of a VM that is dropped again.
    ///
    /// # Errors
    /// [`ProcessorError`].
    pub fn probe(kvm: &Kvm) -> Result<Self, ProcessorError> {
        // Without the capability, there is one width.
        let most = kvm.check_extension_raw(KVM_CAP_ARM_VM_IPA_SIZE.into());
        let most = u32::try_from(most).ok().filter(|&bits| bits > 0);
        // The guest's page tables do not show more than `MOST_BITS`.
        let most = most.unwrap_or(DEFAULT_BITS).min(MOST_BITS);
        let bits = most.min(DEFAULT_BITS);
        let features = id_aa64mmfr0(kvm, bits).map_err(ProcessorError::Features)?;
        match Granule::choose(features, rustix::param::page_size() as u64) {
            Some(granule) => Ok(Self {
                bits,
                most,
                features,
                granule,
            }),
            None => Err(ProcessorError::PageSizes),
        }
    }

    /// The width of guest-physical addresses, in bits.
    pub fn physical_bits(&self) -> u32 {
        self.bits
    }

    /// Gives VMs addresses of at least this width, if the host offers it and the
    /// guest's page tables can show it. Otherwise, they get what is possible.
    ///
    /// Without this call, they have 40 bits, as VMs of type 0, or what the host
    /// offers if it is less. They do not get the largest width in any case, because
    /// newer kernels walk all of it in steps when a VM ends (`stage2_destroy_range`
    /// in arch/arm64/kvm/mmu.c): with 48 bits and pages of 16 KiB, in 8 million
    /// steps.
    pub fn reach(&mut self, bits: u32) {
        self.bits = bits.max(self.bits).min(self.most);
    }

    /// The machine code for this processor.
    pub fn code(&self) -> Code {
        Code {
            granule: self.granule,
        }
    }

    /// The same processor with page tables of this granule; `None` if it does not
    /// have it.
    pub fn with_granule(self, granule: Granule) -> Option<Self> {
        let has = granule.is_offered(self.features);
        has.then_some(Self { granule, ..self })
    }

    /// A VM with [`physical_bits`](Self::physical_bits). Accesses that KVM cannot
    /// decode are exits, which have an address.
    ///
    /// # Errors
    /// [`VmError::Refused`].
    pub fn plain_vm(&self, kvm: &Kvm) -> Result<KvmVm, VmError> {
        let vm = vm(kvm, self.bits)?;
        let enabled = vm.fd().enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_ARM_NISV_TO_USER,
            ..Default::default()
        });
        enabled.map_err(Errno::from)?;
        Ok(vm)
    }

    /// Fails: the type of a VM is the width of its addresses here.
    ///
    /// # Errors
    /// [`VmError::NoPrivatePages`].
    pub fn private_vm(&self, _kvm: &Kvm) -> Result<KvmVm, VmError> {
        Err(VmError::NoPrivatePages(
            "no VM on this architecture has private pages without hardware for them",
        ))
    }

    /// A vCPU of `vm` with the page tables and the exception code of `stub`.
    ///
    /// # Errors
    /// The error of KVM.
    pub(in crate::guest) fn vcpu(&self, vm: &VmFd, stub: &Stub) -> Result<VcpuFd, Errno> {
        let vcpu = new_vcpu(vm)?;
        // A write to SCTLR_EL1 takes effect when the vCPU runs, so order does not
        // matter.
        for (register, value) in [
            (MAIR_EL1, MAIR),
            (TCR_EL1, self.granule.tcr(self.bits)),
            (TTBR0_EL1, stub.page_tables),
            (SCTLR_EL1, SCTLR),
        ] {
            set(&vcpu, system(register), value)?;
        }
        if let Some(address) = stub.exceptions {
            set(&vcpu, system(VBAR_EL1), address)?;
        }
        vcpu.set_guest_debug(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
            ..Default::default()
        })?;
        Ok(vcpu)
    }
}

fn vm(kvm: &Kvm, bits: u32) -> Result<KvmVm, Errno> {
    // Kernels without the capability accept type 0 alone.
    let vm_type = match bits {
        DEFAULT_BITS => 0,
        _ => bits.into(),
    };
    KvmVm::create(kvm, vm_type)
}

/// A vCPU of the kind that suits the host best.
fn new_vcpu(vm: &VmFd) -> Result<VcpuFd, Errno> {
    let vcpu = vm.create_vcpu(0)?;
    let mut kind = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut kind)?;
    vcpu.vcpu_init(&kind)?;
    Ok(vcpu)
}

fn id_aa64mmfr0(kvm: &Kvm, bits: u32) -> Result<u64, Errno> {
    let vm = vm(kvm, bits)?;
    get(&new_vcpu(vm.fd())?, system(ID_AA64MMFR0_EL1))
}

/// Sets the vCPU to before an access.
pub(in crate::guest) fn set_order(vcpu: &VcpuFd, order: Order) -> Result<(), Errno> {
    set(vcpu, pc(), order.pc)?;
    set(vcpu, core(offset_of!(user_pt_regs, pstate)), PSTATE)?;
    set(vcpu, general(ADDRESS), order.address)?;
    set(vcpu, general(VALUE), order.value)?;
    set(vcpu, general(COUNT), order.count)
}

/// The register of the value.
pub(in crate::guest) fn value(vcpu: &VcpuFd) -> Result<u64, Errno> {
    get(vcpu, general(VALUE))
}

/// What follows this exit, if it ends an access.
pub(in crate::guest) fn ending(exit: &VcpuExit<'_>) -> Option<Ending> {
    match exit {
        VcpuExit::Debug(breakpoint) => match number(*breakpoint)? {
            DONE => Some(done),
            EXCEPTION => Some(exception),
            _ => None,
        },
        VcpuExit::Unsupported(KVM_EXIT_ARM_NISV) => Some(undecoded),
        _ => None,
    }
}

/// The number of a `brk`.
fn number(exit: kvm_debug_exit_arch) -> Option<u16> {
    let is_brk = exit.hsr >> 26 == CLASS_BRK;
    u16::try_from(exit.hsr & 0xffff).ok().filter(|_| is_brk)
}

/// The program counter is still at the `brk`.
fn done(vcpu: &mut VcpuFd) -> Result<u64, GuestError> {
    let next = || {
        set(vcpu, pc(), get(vcpu, pc())?.wrapping_add(4))?;
        value(vcpu)
    };
    next().map_err(|e| stopped(&e))
}

/// The guest took an exception.
fn exception(vcpu: &mut VcpuFd) -> Result<u64, GuestError> {
    let read = |register| get(vcpu, system(register)).map_err(|e| stopped(&e));
    let (syndrome, address) = (read(ESR_EL1)?, read(FAR_EL1)?);
    Err(GuestError::Stopped(format!(
        "an exception in the guest, ESR_EL1 {syndrome:#x}, FAR_EL1 {address:#x}"
    )))
}

/// KVM does not know what the guest's instruction does.
fn undecoded(vcpu: &mut VcpuFd) -> Result<u64, GuestError> {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit's reason, which led here, says that KVM has filled in this
    // member, and any bytes are two valid numbers.
    let exit = unsafe { run.__bindgen_anon_1.arm_nisv };
    Err(GuestError::Undecoded {
        gpa: exit.fault_ipa,
    })
}

/// The identifier of a register in `KVM_SET_ONE_REG`, by its offset in
/// `user_pt_regs` (api.rst, 4.68).
fn core(offset: usize) -> u64 {
    let number = (offset_of!(kvm_regs, regs) + offset) / 4;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | number as u64
}

fn general(register: X) -> u64 {
    core(offset_of!(user_pt_regs, regs) + 8 * usize::from(register.0))
}

fn pc() -> u64 {
    core(offset_of!(user_pt_regs, pc))
}

fn system(register: SystemRegister) -> u64 {
    let number = u64::from(register.bits());
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG) | number
}

fn set(vcpu: &VcpuFd, register: u64, value: u64) -> Result<(), Errno> {
    vcpu.set_one_reg(register, &value.to_le_bytes())?;
    Ok(())
}

fn get(vcpu: &VcpuFd, register: u64) -> Result<u64, Errno> {
    let mut value = [0; 8];
    vcpu.get_one_reg(register, &mut value)?;
    Ok(u64::from_le_bytes(value))
}
