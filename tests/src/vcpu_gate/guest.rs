// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM with vCPUs that never stop by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Kvm;
use kvm_slots::vcpu_gate::{GatedVcpu, VcpuGate};
use kvm_slots::{KvmVm, Vm};
use memmap2::{MmapMut, MmapRaw};

use crate::check::at;
use crate::subject::host_page_size;
use crate::vcpu::{Code, Op, Processor, Reg, TABLES_SIZE, compile, lay_out};

const TABLES: u64 = 0;
const CODE: u64 = 0x3000;
/// A line for each vCPU.
const LINES: u64 = 0x4000;
const LINE: u64 = 64;
/// In whole pages of the host, it may be more.
const SIZE: u64 = 0x8000;
/// An address without memory.
pub(super) const MMIO: u64 = 0x10_0000;

/// The most vCPUs of a machine.
pub(super) const MOST: u64 = (SIZE - LINES) / LINE;

/// What a vCPU does in a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Counts.
    Count,
    /// Counts. It stores each number to [`MMIO`], loads from there, and stores the
    /// loaded value next to its count.
    Mmio,
}

/// The address of a vCPU's line.
const OWN: Reg = Reg::R0;
/// [`MMIO`].
const DEVICE: Reg = Reg::R1;
const NUMBER: Reg = Reg::R2;
/// The value that [`Program::Mmio`] has loaded from the device.
pub(super) const LOADED: Reg = Reg::R3;

impl Program {
    fn ops(self) -> &'static [Op] {
        match self {
            Self::Count => &[
                Op::Label("next"),
                Op::Load(NUMBER, OWN, 0),
                Op::Increase(NUMBER, 1),
                Op::Store(NUMBER, OWN, 0),
                Op::Jump("next"),
            ],
            Self::Mmio => &[
                Op::Label("next"),
                Op::Increase(NUMBER, 1),
                Op::Store(NUMBER, DEVICE, 0),
                Op::Load(LOADED, DEVICE, 0),
                Op::Store(LOADED, OWN, 8),
                Op::Store(NUMBER, OWN, 0),
                Op::Jump("next"),
            ],
        }
    }

    fn code(self) -> Result<Code, String> {
        compile(self.ops())
    }

    fn address(self) -> u64 {
        match self {
            Self::Count => CODE,
            Self::Mmio => CODE + 0x100,
        }
    }

    /// The address of the step after the one at `address`.
    pub(super) fn after(self, address: u64) -> Result<u64, String> {
        let offset = address.checked_sub(self.address());
        let code = self.code()?;
        let after = offset.and_then(|offset| code.after(offset));
        let after = after.ok_or_else(|| format!("no step of the program is at {address:#x}"))?;
        Ok(self.address() + after)
    }
}

/// A VM whose vCPUs run through a gate.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) gate: VcpuGate,
    vm: KvmVm,
    /// The size of the guest's memory.
    size: u64,
    pub(super) processor: Processor,
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
        let (processor, vm) = Processor::with_vm(&kvm)?;
        let size = SIZE.next_multiple_of(host_page_size());
        let memory = memory(size)?;
        let machine = Self {
            gate: VcpuGate::new().map_err(at("a gate"))?,
            processor,
            vm,
            size,
            next: AtomicU64::new(0),
            memory,
        };
        machine.set_slot(size)?;
        Ok(Arc::new(machine))
    }

    /// Deletes the slot that holds all of the guest's memory, and recreates it.
    pub(super) fn replace_slot(&self) -> Result<(), String> {
        self.set_slot(0)?;
        self.set_slot(self.size)
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
        let registers = [(OWN, line), (DEVICE, MMIO)];
        let (processor, entry) = (&self.processor, program.address());
        processor.start(&fd, TABLES, entry, &registers)?;
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
}

/// Page tables and programs.
fn memory(size: u64) -> Result<MmapRaw, String> {
    const { assert!(TABLES_SIZE <= CODE) };
    let len = usize::try_from(size).map_err(at("a size"))?;
    let mut memory = MmapMut::map_anon(len).map_err(at("memory"))?;
    let [count, mmio] = [Program::Count.code()?, Program::Mmio.code()?];
    let programs = [
        (Program::Count.address(), count.bytes()),
        (Program::Mmio.address(), mmio.bytes()),
    ];
    lay_out(&mut memory, TABLES, programs);
    Ok(memory.into())
}
