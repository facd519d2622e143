// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest of the real KVM: a vCPU in 32-bit mode without paging.

use std::io;

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::{CODE, Guest, Seen};
use crate::{Bytes, Region, page_size};

/// `mov al, [ebx]`, `hlt`.
const LOAD: [u8; 3] = [0x8a, 0x03, 0xf4];
/// `mov [ebx], al`, `hlt`; four bytes after the other.
const STORE: [u8; 3] = [0x88, 0x03, 0xf4];

/// A vCPU that makes one access at a time, below 4 GiB.
#[derive(Debug)]
pub struct Vcpu(VcpuFd);

/// A VM without private pages.
///
/// # Errors
/// KVM refuses it.
pub fn plain_vm(kvm: &Kvm) -> Result<KvmVm, Errno> {
    KvmVm::create(kvm, 0)
}

impl Vcpu {
    /// The first vCPU of a VM, and the region that its code needs.
    ///
    /// # Errors
    /// The error of KVM or the host.
    pub fn new(vm: &VmFd) -> io::Result<(Self, Region)> {
        let code = Bytes::zeros(page_size())?;
        for (offset, byte) in (0..).zip(LOAD).chain((4..).zip(STORE)) {
            code.set(offset, byte).ok_or(io::ErrorKind::InvalidInput)?;
        }
        let vcpu = vm.create_vcpu(0).map_err(host_error)?;
        let mut sregs = vcpu.get_sregs().map_err(host_error)?;
        sregs.cs = flat(0b1011, 8);
        let data = flat(0b0011, 16);
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        (sregs.fs, sregs.gs) = (data, data);
        // Only protection is on.
        sregs.cr0 = 1;
        vcpu.set_sregs(&sregs).map_err(host_error)?;
        Ok((Self(vcpu), Region::code(CODE, code)))
    }

    fn run(&mut self, rip: u64, gpa: u64, byte: u8) -> Seen {
        let regs = kvm_regs {
            rip,
            rbx: gpa,
            rax: byte.into(),
            // The bit that is always set. Interrupts are off.
            rflags: 1 << 1,
            ..Default::default()
        };
        if let Err(error) = self.0.set_regs(&regs) {
            return Seen::Fault(error.to_string());
        }
        let mut exits = 0;
        loop {
            match self.0.run() {
                Ok(VcpuExit::Hlt) if exits > 0 => return Seen::Exit,
                Ok(VcpuExit::Hlt) => {
                    let regs = self.0.get_regs().map(|regs| regs.rax.to_le_bytes()[0]);
                    return regs.map_or_else(|error| Seen::Fault(error.to_string()), Seen::Direct);
                }
                Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => exits += 1,
                Ok(other) => return Seen::Fault(format!("{other:?}")),
                Err(error) if error.errno() == EINTR => {}
                Err(error) => return Seen::Fault(error.to_string()),
            }
        }
    }
}

/// A signal arrived.
const EINTR: i32 = 4;

impl Guest for Vcpu {
    fn load(&mut self, gpa: u64) -> Seen {
        self.run(CODE, gpa, 0)
    }

    fn store(&mut self, gpa: u64, byte: u8) -> Seen {
        self.run(CODE + 4, gpa, byte)
    }
}

fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// A flat 32-bit segment of ring 0.
fn flat(type_: u8, selector: u16) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
