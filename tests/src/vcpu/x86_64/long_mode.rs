// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs that start in 64-bit mode, with guest-virtual equal to guest-physical
//! addresses.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

/// The size of [`tables`] in bytes.
pub const TABLES_SIZE: u64 = 0x3000;

/// The page tables for the first GiB, with 2 MiB pages, for three pages at
/// `gpa`: words with their offsets.
pub fn tables(gpa: u64) -> impl Iterator<Item = (u64, u64)> {
    // Present, writable, accessed; for a 2 MiB page also dirty and large.
    let (table, page) = (0b10_0011, 0b1110_0011);
    let upper = [
        (0, (gpa + 0x1000) | table),
        (0x1000, (gpa + 0x2000) | table),
    ];
    let pages = (0..512).map(move |number| (0x2000 + 8 * number, (number << 21) | page));
    upper.into_iter().chain(pages)
}

/// Sets `vcpu` up to start with `regs` and the page tables at `tables`.
///
/// # Errors
/// KVM refuses a part of the state.
pub fn start(
    vcpu: &VcpuFd,
    cpuid: &CpuId,
    tables: u64,
    regs: kvm_regs,
) -> Result<(), kvm_ioctls::Error> {
    // KVM refuses 64-bit mode if CPUID does not have it.
    vcpu.set_cpuid2(cpuid)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = segment(0b1011, 8, true);
    let data = segment(0b0011, 16, false);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    // Protection, extension type, paging.
    sregs.cr0 = 1 | 1 << 4 | 1 << 31;
    sregs.cr3 = tables;
    // Physical address extension.
    sregs.cr4 = 1 << 5;
    // Long mode, enabled and active.
    sregs.efer = 1 << 8 | 1 << 10;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rflags: 1 << 1,
        ..regs
    })
}

/// A flat segment of ring 0.
fn segment(type_: u8, selector: u16, long: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        l: u8::from(long),
        db: u8::from(!long),
        g: 1,
        ..Default::default()
    }
}
