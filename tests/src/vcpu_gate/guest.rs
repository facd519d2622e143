// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM with vCPUs that never stop by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd};
use kvm_slots::vcpu_gate::{GatedVcpu, VcpuGate};
use kvm_slots::{KvmVm, Vm};
use memmap2::{MmapMut, MmapRaw};

use crate::check::at;
use crate::long_mode;

/// The top-level page table. The lower tables are in the next two pages and map
/// the first GiB to the same guest-physical addresses.
const TABLES: u64 = 0;
const CODE: u64 = 0x3000;
/// A line for each vCPU.
const LINES: u64 = 0x4000;
const LINE: u64 = 64;
const SIZE: u64 = 0x8000;
/// An address without memory.
pub(super) const MMIO: u64 = 0x10_0000;

/// The most vCPUs of a machine.
pub(super) const MOST: u64 = (SIZE - LINES) / LINE;

/// What a vCPU does in a loop. RDI is the address of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Counts.
    Count,
    /// Counts. It stores each number to [`MMIO`] (RSI), loads from there, and
    /// stores the loaded value next to its count.
    Mmio,
}

impl Program {
    fn code(self) -> &'static [u8] {
        match self {
            // inc qword [rdi]; jmp
            Self::Count => &[0x48, 0xff, 0x07, 0xeb, 0xfb],
            // inc rcx; mov [rsi], rcx; mov rbx, [rsi]; mov [rdi + 8], rbx;
            // mov [rdi], rcx; jmp
            Self::Mmio => &[
                0x48, 0xff, 0xc1, 0x48, 0x89, 0x0e, 0x48, 0x8b, 0x1e, 0x48, 0x89, 0x5f, 0x08, 0x48,
                0x89, 0x0f, 0xeb, 0xee,
            ],
        }
    }

    fn address(self) -> u64 {
        match self {
            Self::Count => CODE,
            Self::Mmio => CODE + 0x100,
        }
    }
}

/// A VM whose vCPUs run through a gate.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) gate: VcpuGate,
    vm: KvmVm,
    cpuid: CpuId,
    next: AtomicU64,
    /// Unmapped after `vm`. Each vCPU keeps the machine, and so the memory.
    memory: MmapRaw,
}

/// A vCPU, and the number of its line.
#[derive(Debug)]
pub(super) struct Vcpu {
    pub(super) gated: GatedVcpu,
    pub(super) number: u64,
    _machine: Arc<Machine>,
}

impl Machine {
    pub(super) fn new() -> Result<Arc<Self>, String> {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let vm = KvmVm::new(Arc::new(kvm.create_vm().map_err(at("a VM"))?));
        let memory = memory()?;
        let machine = Self {
            gate: VcpuGate::new().map_err(at("a gate"))?,
            vm,
            cpuid: cpuid.map_err(at("CPUID"))?,
            next: AtomicU64::new(0),
            memory,
        };
        machine.set_slot(SIZE)?;
        Ok(Arc::new(machine))
    }

    /// Deletes the slot that holds all of the guest's memory, and recreates it.
    pub(super) fn replace_slot(&self) -> Result<(), String> {
        self.set_slot(0)?;
        self.set_slot(SIZE)
    }

    fn set_slot(&self, size: u64) -> Result<(), String> {
        let region = kvm_userspace_memory_region {
            memory_size: size,
            userspace_addr: self.memory.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: while a vCPU runs, this process accesses the mapping only by
        // atomics, and each vCPU keeps it mapped.
        unsafe { self.vm.set_user_memory_region(&region) }.map_err(at("a slot"))
    }

    /// A vCPU that is about to start.
    pub(super) fn vcpu(self: &Arc<Self>, program: Program) -> Result<Vcpu, String> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        if number >= MOST {
            return Err(format!("more than {MOST} vCPUs"));
        }
        let fd = self.vm.fd().create_vcpu(number).map_err(at("a vCPU"))?;
        let line = LINES + number * LINE;
        self.start(&fd, program, line)
            .map_err(at("its registers"))?;
        Ok(Vcpu {
            gated: self.gate.vcpu(fd).map_err(at("a gated vCPU"))?,
            number,
            _machine: Arc::clone(self),
        })
    }

    /// The count of a vCPU.
    pub(super) fn counted(&self, number: u64) -> u64 {
        self.word(number, 0)
    }

    /// The value that a vCPU has loaded last.
    pub(super) fn loaded(&self, number: u64) -> u64 {
        self.word(number, 8)
    }

    fn word(&self, number: u64, offset: u64) -> u64 {
        assert!(number < MOST);
        let at = usize::try_from(LINES + number * LINE + offset).expect("small");
        // SAFETY: the word is in the mapping and aligned. This process accesses
        // it only by atomics, and the guest accesses whole words.
        let word = unsafe { AtomicU64::from_ptr(self.memory.as_mut_ptr().add(at).cast()) };
        word.load(Ordering::SeqCst)
    }

    fn start(&self, vcpu: &VcpuFd, program: Program, line: u64) -> Result<(), kvm_ioctls::Error> {
        let regs = kvm_regs {
            rip: program.address(),
            rdi: line,
            rsi: MMIO,
            ..Default::default()
        };
        long_mode::start(vcpu, &self.cpuid, TABLES, regs)
    }
}

/// Page tables and programs.
fn memory() -> Result<MmapRaw, String> {
    let len = usize::try_from(SIZE).map_err(at("a size"))?;
    let mut memory = MmapMut::map_anon(len).map_err(at("memory"))?;
    let mut put = |gpa: u64, bytes: &[u8]| {
        let start = usize::try_from(gpa).expect("small");
        memory[start..start + bytes.len()].copy_from_slice(bytes);
    };
    for (offset, word) in long_mode::tables(TABLES) {
        put(TABLES + offset, &word.to_le_bytes());
    }
    for program in [Program::Count, Program::Mmio] {
        put(program.address(), program.code());
    }
    Ok(memory.into())
}
