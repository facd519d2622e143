// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest of the real KVM: a vCPU at EL1. Its MMU is on: without it, the guest
//! would bypass the host's caches.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::{CODE, Guest, Seen};
use crate::{Bytes, Region, page_size};

/// An address without memory. The guest stores a byte there after its access, and
/// two if it took an exception.
const DONE: u64 = 0xc000_0000;

/// `ldrb w0, [x1]`, `strb w0, [x2]`.
const LOAD: [u32; 2] = [0x3940_0020, 0x3900_0040];
/// `strb w0, [x1]`, `strb w0, [x2]`; behind the other.
const STORE: [u32; 2] = [0x3900_0020, 0x3900_0040];
/// `strh w0, [x2]`.
const EXCEPTION: [u32; 1] = [0x7900_0040];

/// Offsets in the guest's own memory: the page table, the exception vectors, and
/// in them the entry for exceptions that its own code causes.
const TABLE: u64 = 0x1000;
const VECTORS: u64 = 0x800;
const SYNCHRONOUS: u64 = VECTORS + 0x200;
const OWN_SIZE: u64 = 0x2000;

/// X0, X1, X2 and PC. Registers are counted in units of 4 bytes.
const X0: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;
const X1: u64 = X0 + 2;
const X2: u64 = X0 + 4;
const PC: u64 = X0 + 2 * 32;
const SCTLR_EL1: u64 = system(1, 0, 0);
const TTBR0_EL1: u64 = system(2, 0, 0);
const TCR_EL1: u64 = system(2, 0, 2);
const MAIR_EL1: u64 = system(10, 2, 0);
const VBAR_EL1: u64 = system(12, 0, 0);

/// A vCPU that makes one access at a time, below 4 GiB.
#[derive(Debug)]
pub struct Vcpu(VcpuFd);

/// The most bits of a guest-physical address, unless the host has fewer. Linux 7.3
/// walks the whole address space when a VM ends, a GiB at a time.
const ADDRESS_BITS: u32 = 40;

/// A VM without private pages.
///
/// # Errors
/// KVM refuses it.
pub fn plain_vm(kvm: &Kvm) -> Result<KvmVm, Errno> {
    let bits = ADDRESS_BITS.min(kvm.get_host_ipa_limit().cast_unsigned());
    KvmVm::create(kvm, bits.into())
}

impl Vcpu {
    /// The first vCPU of a VM, and the region that its code needs.
    ///
    /// # Errors
    /// The error of KVM or the host.
    pub fn new(vm: &VmFd) -> io::Result<(Self, Region)> {
        let mut target = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut target).map_err(host_error)?;
        let vcpu = vm.create_vcpu(0).map_err(host_error)?;
        vcpu.vcpu_init(&target).map_err(host_error)?;
        let vcpu = Self(vcpu);
        let mut control = [0; 8];
        let read = vcpu.0.get_one_reg(SCTLR_EL1, &mut control);
        read.map_err(host_error)?;
        for (register, value) in translation(u64::from_le_bytes(control)) {
            vcpu.set(register, value).map_err(host_error)?;
        }
        Ok((vcpu, Region::code(CODE, own_memory()?)))
    }

    fn set(&self, register: u64, value: u64) -> Result<(), kvm_ioctls::Error> {
        self.0.set_one_reg(register, &value.to_le_bytes())?;
        Ok(())
    }

    fn run(&mut self, pc: u64, gpa: u64, byte: u8) -> Result<Seen, kvm_ioctls::Error> {
        for (register, value) in [(PC, pc), (X0, byte.into()), (X1, gpa), (X2, DONE)] {
            self.set(register, value)?;
        }
        let mut exits = 0;
        let seen = loop {
            match self.0.run() {
                Ok(VcpuExit::MmioWrite(DONE, [byte])) => {
                    break match exits {
                        0 => Seen::Direct(*byte),
                        _ => Seen::Exit,
                    };
                }
                Ok(VcpuExit::MmioWrite(DONE, _)) => break Seen::Fault("an exception".into()),
                Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => exits += 1,
                Ok(other) => return Ok(Seen::Fault(format!("{other:?}"))),
                Err(error) if error.errno() == EINTR => {}
                Err(error) => return Err(error),
            }
        };
        self.complete()?;
        Ok(seen)
    }

    /// Completes the latest exit: KVM leaves the instruction behind when the vCPU
    /// runs again, and would do so from the PC that the next access sets.
    fn complete(&mut self) -> Result<(), kvm_ioctls::Error> {
        self.0.set_kvm_immediate_exit(1);
        let completed = self.0.run().map(|_| ());
        self.0.set_kvm_immediate_exit(0);
        match completed {
            Err(error) if error.errno() == EINTR => Ok(()),
            other => other,
        }
    }
}

/// A signal arrived.
const EINTR: i32 = 4;

impl Guest for Vcpu {
    fn load(&mut self, gpa: u64) -> Seen {
        let seen = self.run(CODE, gpa, 0);
        seen.unwrap_or_else(|error| Seen::Fault(error.to_string()))
    }

    fn store(&mut self, gpa: u64, byte: u8) -> Seen {
        let seen = self.run(CODE + 8, gpa, byte);
        seen.unwrap_or_else(|error| Seen::Fault(error.to_string()))
    }
}

fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Code, exception vectors and page table.
fn own_memory() -> io::Result<Arc<Bytes>> {
    let memory = Bytes::zeros(OWN_SIZE.next_multiple_of(page_size()))?;
    let code = (0..).step_by(4).zip(LOAD.into_iter().chain(STORE));
    let vector = (SYNCHRONOUS..).step_by(4).zip(EXCEPTION);
    let words = code.chain(vector).map(|(at, word)| (at, word.into(), 4));
    // Blocks of 1 GiB up to 4 GiB: normal memory of the type with index 0, inner
    // shareable, accessed.
    let block = |number: u64| number << 30 | 0b01 | 0b11 << 8 | 1 << 10;
    let table = (0..4).map(|number| (TABLE + 8 * number, block(number), 8));
    for (at, word, size) in words.chain(table) {
        for (at, byte) in (at..).zip(u64::to_le_bytes(word)).take(size) {
            let set = memory.set(at, byte);
            set.ok_or(io::ErrorKind::InvalidInput)?;
        }
    }
    Ok(memory)
}

/// The registers that turn on translation. `control` is the present value of
/// SCTLR_EL1.
fn translation(control: u64) -> [(u64, u64); 5] {
    // Virtual addresses of 39 bits, granules of 4 KiB, none in the upper half.
    // Walks are cacheable and inner shareable.
    let translation = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23;
    // The MMU and both caches.
    let on = 1 | 1 << 2 | 1 << 12;
    [
        // Write-back, allocating.
        (MAIR_EL1, 0xff),
        (TCR_EL1, translation),
        (TTBR0_EL1, CODE + TABLE),
        (VBAR_EL1, CODE + VECTORS),
        (SCTLR_EL1, control | on),
    ]
}

/// The number of a system register with op0 = 3 and op1 = 0.
const fn system(crn: u64, crm: u64, op2: u64) -> u64 {
    let register = 3 << 14 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | register
}
