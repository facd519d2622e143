// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of vCPUs before their first instruction.
//!
//! vCPU 0 starts at the kernel's 64-bit entry point, in long mode, with the page and
//! descriptor tables of [`write_tables`]. The others wait for the kernel's SIPI: KVM
//! creates every vCPU but number 0 in that state if the VM already has its interrupt
//! controllers (`KVM_CREATE_IRQCHIP` or `KVM_CAP_SPLIT_IRQCHIP`).

mod cpuid;

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use kvm_slots::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

pub use cpuid::cpuid;

use super::confidential::cpuid::CpuidFull;
use super::layout::{GDT, PAGE_TABLES, ZERO_PAGE};

/// The selectors that the boot protocol requires: `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
/// Type of a segment: code, executable and readable, accessed.
const CODE: u8 = 0b1011;
/// Type of a segment: data, writable, accessed.
const DATA: u8 = 0b0011;

/// CR0: protection, extension type, paging.
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
/// CR4: physical address extension, which long mode needs.
const CR4: u64 = 1 << 5;
/// EFER: long mode, enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: the bit that is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// Flags of a page table's entry: present, writable.
const PRESENT: u64 = 1 | 1 << 1;
/// Flag of a page directory's entry: a page of 2 MiB.
const LARGE: u64 = 1 << 7;
const TABLE_SIZE: u64 = 4096;
/// The size of the page tables of [`write_tables`].
pub const TABLES_SIZE: u64 = 6 * TABLE_SIZE;

const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Fast string operations, without which Linux avoids `rep movs`.
const FAST_STRINGS: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs are on, and memory is write-back.
const WRITE_BACK: u64 = 1 << 11 | 6;

/// Registers of the local APIC, and their values: the delivery modes ExtINT and NMI,
/// not masked (Intel SDM volume 3A, 12.5.1).
const LVT_LINT0: (usize, u32) = (0x350, 7 << 8);
const LVT_LINT1: (usize, u32) = (0x360, 4 << 8);

/// Why a vCPU cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A vCPU's features do not fit into KVM's table.
    #[error("a vCPU has too many CPUID leaves")]
    Cpuid(#[source] Errno),
    /// CPUID has no room for the leaves of confidential guests.
    #[error(transparent)]
    NoRoom(#[from] CpuidFull),
    /// KVM refuses a part of the state.
    #[error("KVM refuses a vCPU's {what}")]
    State {
        /// The part.
        what: &'static str,
        /// The error of KVM.
        source: Errno,
    },
    /// KVM refuses a model-specific register.
    #[error("KVM refuses a vCPU's MSR {0:#x}")]
    Msr(u32),
}

/// Writes the descriptor table and the page tables that vCPU 0 starts with: the
/// first 4 GiB are mapped to themselves in pages of 2 MiB.
///
/// # Errors
/// If RAM does not have them.
pub fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let gdt = [0, 0, descriptor(&code()), descriptor(&data())];
    memory.write_obj(gdt, GuestAddress(GDT))?;

    let table = |number: u64| PAGE_TABLES + number * TABLE_SIZE;
    let write = |table: u64, index: u64, entry: u64| {
        memory.write_obj(entry, GuestAddress(table + index * 8))
    };
    write(table(0), 0, table(1) | PRESENT)?;
    for gib in 0..4 {
        write(table(1), gib, table(2 + gib) | PRESENT)?;
        for page in 0..512 {
            let address = gib << 30 | page << 21;
            write(table(2 + gib), page, address | LARGE | PRESENT)?;
        }
    }
    Ok(())
}

/// Has the vCPU's TSC run as fast as the host's, for every vCPU.
///
/// KVM creates vCPUs with the frequency that the host had when KVM was loaded. Linux
/// may have measured it again since. On a processor that cannot scale the TSC, KVM
/// then refuses its own value, takes the guest's TSC for stopped, and the guest's
/// timers expire too late by the host's uptime.
///
/// # Errors
/// [`CpuError`].
pub fn set_tsc_frequency(vcpu: &VcpuFd) -> Result<(), CpuError> {
    // Zero is the current frequency of the host.
    vcpu.set_tsc_khz(0).map_err(state("TSC frequency"))
}

/// Sets the MSRs that Linux expects the firmware to have set, for every vCPU. CPUID
/// must be set before.
///
/// # Errors
/// [`CpuError`].
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let mut read = msrs(&[entry(IA32_MISC_ENABLE, 0)])?;
    let count = vcpu.get_msrs(&mut read).map_err(state("MSRs"))?;
    let misc = read.as_slice().first().filter(|_| count == 1);
    let misc = misc.ok_or(CpuError::Msr(IA32_MISC_ENABLE))?.data;
    let values = [
        entry(IA32_MISC_ENABLE, misc | FAST_STRINGS),
        entry(IA32_MTRR_DEF_TYPE, WRITE_BACK),
    ];
    let set = vcpu.set_msrs(&msrs(&values)?).map_err(state("MSRs"))?;
    // KVM stops at the first one that it refuses.
    values
        .get(set)
        .map_or(Ok(()), |first| Err(CpuError::Msr(first.index)))
}

/// Where vCPU 0 starts, in long mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The guest-physical address of the first instruction, mapped at itself.
    pub rip: u64,
    /// The page tables.
    pub cr3: u64,
}

/// Sets vCPU 0 to where it starts. The tables of [`write_tables`] must be in RAM
/// before it runs.
///
/// # Errors
/// [`CpuError`].
pub fn start(vcpu: &VcpuFd, start: Start) -> Result<(), CpuError> {
    set_system_registers(vcpu, start.cr3)?;
    let regs = kvm_regs {
        rip: start.rip,
        rsi: ZERO_PAGE,
        rflags: RFLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(state("registers"))?;
    // The values of FNINIT and of a reset: all exceptions masked.
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(state("FPU"))?;
    let mut lapic = vcpu.get_lapic().map_err(state("local APIC"))?;
    set_lapic_register(&mut lapic, LVT_LINT0);
    set_lapic_register(&mut lapic, LVT_LINT1);
    vcpu.set_lapic(&lapic).map_err(state("local APIC"))
}

fn set_system_registers(vcpu: &VcpuFd, cr3: u64) -> Result<(), CpuError> {
    let mut sregs = vcpu.get_sregs().map_err(state("system registers"))?;
    sregs.cs = code();
    (sregs.ds, sregs.es, sregs.ss) = (data(), data(), data());
    (sregs.fs, sregs.gs) = (data(), data());
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 4 * 8 - 1);
    // No exception is expected before the kernel has its own table.
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
    (sregs.cr0, sregs.cr3, sregs.cr4) = (CR0, cr3, CR4);
    sregs.efer = EFER;
    vcpu.set_sregs(&sregs).map_err(state("system registers"))
}

fn set_lapic_register(lapic: &mut kvm_lapic_state, (offset, value): (usize, u32)) {
    let bytes = lapic.regs.iter_mut().skip(offset);
    for (byte, new) in bytes.zip(value.to_le_bytes()) {
        *byte = i8::from_le_bytes([new]);
    }
}

fn msrs(entries: &[kvm_msr_entry]) -> Result<Msrs, CpuError> {
    let source = Errno::E2BIG;
    Msrs::from_entries(entries).map_err(|_| CpuError::State {
        what: "MSRs",
        source,
    })
}

fn state(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError {
    move |error| CpuError::State {
        what,
        source: error.into(),
    }
}

fn code() -> kvm_segment {
    kvm_segment {
        selector: BOOT_CS,
        type_: CODE,
        l: 1,
        ..flat()
    }
}

fn data() -> kvm_segment {
    kvm_segment {
        selector: BOOT_DS,
        type_: DATA,
        db: 1,
        ..flat()
    }
}

/// All of memory, in ring 0.
fn flat() -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// The descriptor of a flat segment (Intel SDM volume 3A, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let bit = |value: u8, at: u32| u64::from(value) << at;
    let limit = 0xffff | 0xf << 48;
    let access = bit(segment.type_, 40) | bit(segment.s, 44) | bit(segment.present, 47);
    let size = bit(segment.l, 53) | bit(segment.db, 54) | bit(segment.g, 55);
    limit | access | size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the page tables as a processor does.
    fn translate(memory: &GuestMemoryMmap, address: u64) -> Option<u64> {
        let entry = |table: u64, shift: u32| {
            let at = GuestAddress((table & !0xfff) + (address >> shift & 511) * 8);
            let entry: u64 = memory.read_obj(at).unwrap();
            (entry & PRESENT == PRESENT).then_some(entry)
        };
        let directory = entry(entry(entry(PAGE_TABLES, 39)?, 30)?, 21)?;
        (directory & LARGE != 0).then_some(directory & !0x1f_ffff | address & 0x1f_ffff)
    }

    #[test]
    fn the_tables_map_the_first_four_gibibytes_to_themselves() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        for address in [
            0,
            0x10_0200,
            0x1f_ffff,
            0x20_0000,
            0x7654_3210,
            u32::MAX.into(),
        ] {
            assert_eq!(translate(&memory, address), Some(address));
        }
        assert_eq!(translate(&memory, 1 << 32), None);
        assert_eq!(translate(&memory, 1 << 39), None);
        // Nothing is written beyond the six tables.
        let end: u64 = memory
            .read_obj(GuestAddress(PAGE_TABLES + 6 * TABLE_SIZE))
            .unwrap();
        assert_eq!(end, 0);
    }

    #[test]
    fn the_descriptors_are_those_that_every_manual_prints() {
        assert_eq!(descriptor(&code()), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
    }
}
