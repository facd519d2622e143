// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Snapshot and restore of a guest that counts: RAM with the help of the dirty log, slots,
//! page states and a vCPU. The guest goes on counting in another VM.
//!
//! `cargo run -p kvm-slots --all-features --example snapshot`

use std::env::consts::ARCH;
use std::error::Error;
use std::sync::Arc;

use guest::{CODE, Registers};
use kvm_slots::convert::{
    ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, Home, Request,
};
use kvm_slots::dirty::{DirtyCollector, DirtyMode};
use kvm_slots::kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use kvm_slots::state::{PagesState, SlotsState};
use kvm_slots::{AbiProfile, Capabilities, KvmVm, SlotAccess, SlotBacking, SlotRange, Slots, Vm};
use kvm_slots::{FileSlice, HostMemory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, MmapRegion};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The guest's code is at its start, and the number that it counts further on.
const RAM: u64 = 0x1_0000;
const SIZE: u64 = 0x1_0000;
/// RAM of which the guest has made pages private, on a KVM that has such.
const PROTECTED: u64 = 0x10_0000;

/// What a VMM would write to a file.
struct Snapshot {
    slots: String,
    pages: String,
    ram: Vec<u8>,
    registers: Registers,
}

struct Machine {
    ram: GuestMemoryMmap,
    slots: Slots<KvmVm>,
    dirty: Arc<DirtyCollector<KvmVm>>,
    memory: ConvertibleMemory,
    vcpu: VcpuFd,
}

fn main() -> Result<()> {
    let kvm = match Kvm::new() {
        Ok(kvm) if !CODE.is_empty() => kvm,
        Ok(_) => {
            println!("Left out: this example has no guest for {ARCH}");
            return Ok(());
        }
        Err(error) => {
            println!("Left out: this example runs a guest, which needs /dev/kvm: {error}");
            return Ok(());
        }
    };
    let mut old = Machine::new(&kvm, None)?;
    old.ram.write_slice(CODE, GuestAddress(RAM))?;
    println!("The guest counts to {}.", old.run(100)?);
    let snapshot = old.snapshot()?;
    drop(old);
    let mut new = Machine::new(&kvm, Some(&snapshot))?;
    println!("In another VM, it counts on to {}.", new.run(50)?);
    Ok(())
}

impl Machine {
    /// A machine as it starts, or as it was saved.
    fn new(kvm: &Kvm, saved: Option<&Snapshot>) -> Result<Self> {
        let protected = guest::PROTECTED_VM.and_then(|kind| KvmVm::create(kvm, kind).ok());
        let vm = match protected {
            Some(vm) => vm,
            None => KvmVm::create(kvm, 0)?,
        };
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), SIZE.try_into()?)])?;
        let ranges = match saved {
            None => Self::ranges(&vm, &ram)?,
            // The same ranges, on the memory of this process.
            Some(saved) => {
                let state: SlotsState<u64> = serde_json::from_str(&saved.slots)?;
                let mine = Self::ranges(&vm, &ram)?;
                state.ranges(|slot| {
                    let mine = mine.iter().find(|range| range.gpa() == *slot.data());
                    let mine = mine.map(|range| range.backing().clone());
                    mine.ok_or(std::io::Error::other("this machine has no such memory"))
                })?
            }
        };
        let dirty = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), DirtyMode::Log)?;
        let dirty = Arc::new(dirty);
        // SAFETY: no one else makes slots of this VM.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let mut slots = slots.with_watcher(dirty.clone());
        let plan = slots.plan(&ranges)?;
        slots.apply(&plan)?;

        let engine = Engine::new(vm.clone(), Home::probe(&vm)?);
        let mut memory = ConvertibleMemory::new();
        let sides = GuestMemfdSides::Private;
        let two_sided = ranges
            .iter()
            .filter_map(|r| ConvertibleRange::new(r, sides));
        memory.set_ranges(two_sided)?;
        let vcpu = guest::vcpu(&vm)?;
        if let Some(saved) = saved {
            ram.write_slice(&saved.ram, GuestAddress(RAM))?;
            memory.restore(&serde_json::from_str::<PagesState>(&saved.pages)?)?;
            let bytes = engine.restore(&mut memory)?;
            println!("Restored {} slots, {bytes} private bytes.", ranges.len());
            guest::set_registers(&vcpu, &saved.registers)?;
        } else if engine.home().has_private_pages() {
            // As if the guest had asked for it.
            let request = Request::hypercall(PROTECTED, 2, 1 << 4)?;
            let converted = engine.convert(&mut memory, request)?;
            println!("{} bytes are private.", converted.bytes);
        }
        Ok(Self {
            ram,
            slots,
            dirty,
            memory,
            vcpu,
        })
    }

    /// Logged RAM, and RAM with two sides if the VM has private pages.
    fn ranges(vm: &KvmVm, ram: &GuestMemoryMmap) -> Result<Vec<SlotRange>> {
        let logged = SlotRange::of_guest_memory(ram)?.into_iter();
        let mut ranges: Vec<SlotRange> = logged.map(|range| range.with_log_dirty(true)).collect();
        let home = Home::probe(vm)?;
        if home.has_private_pages() {
            let file = Arc::new(vm.create_guest_memfd(SIZE, home.file_flags())?);
            let host = MmapRegion::<()>::new(SIZE.try_into()?)?;
            let backing = SlotBacking::GuestMemfd {
                file: FileSlice::new(file, 0, SIZE).ok_or("the file is empty")?,
                host: HostMemory::of_mmap(Arc::new(host)),
            };
            ranges.push(SlotRange::new(PROTECTED, SlotAccess::ReadWrite, backing)?);
        }
        Ok(ranges)
    }

    /// Has the guest count some steps. Returns the last number.
    fn run(&mut self, steps: u32) -> Result<u8> {
        let mut last = 0;
        for _ in 0..steps {
            match self.vcpu.run()? {
                VcpuExit::MmioWrite(0, [number]) => last = *number,
                exit => return Err(format!("the guest exits: {exit:?}").into()),
            }
        }
        Ok(last)
    }

    /// Copies the RAM while the guest counts on, then what it has written meanwhile.
    fn snapshot(&mut self) -> Result<Snapshot> {
        let client = self.dirty.tracker().client();
        let mut ram = vec![0; SIZE.try_into()?];
        self.ram.read_slice(&mut ram, GuestAddress(RAM))?;
        println!(
            "All RAM is copied; the guest counts on to {}.",
            self.run(50)?
        );

        // The last exit completes when the vCPU runs again.
        self.vcpu.set_kvm_immediate_exit(1);
        let interrupted = self.vcpu.run().is_err();
        self.vcpu.set_kvm_immediate_exit(0);
        assert!(interrupted, "the vCPU was to leave at once");
        self.dirty.collect(self.slots.table())?;
        let written = client.take_all();
        for slot in self.slots.table().slots() {
            for (gpa, size) in written.in_slot(slot) {
                let part = &mut ram[usize::try_from(gpa - RAM)?..][..usize::try_from(size)?];
                self.ram.read_slice(part, GuestAddress(gpa))?;
            }
        }
        println!("{} pages were written and are copied again.", written.len());
        Ok(Snapshot {
            // Each slot's memory is found again by its address.
            slots: serde_json::to_string(&self.slots.table().state(|slot| slot.gpa()))?,
            pages: serde_json::to_string(&self.memory.state())?,
            ram,
            registers: guest::registers(&self.vcpu)?,
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod guest {
    use super::*;
    use kvm_slots::kvm_bindings::{KVM_X86_SW_PROTECTED_VM, kvm_regs, kvm_sregs};

    pub type Registers = (kvm_regs, kvm_sregs);
    pub const PROTECTED_VM: Option<u64> = Some(KVM_X86_SW_PROTECTED_VM as u64);
    pub const CODE: &[u8] = &[
        0x2e, 0xff, 0x06, 0x00, 0x20, // inc word cs:[0x2000]
        0x2e, 0xa0, 0x00, 0x20, // mov al, cs:[0x2000]
        0xa2, 0x00, 0x00, // mov [0], al
        0xeb, 0xf2, // jmp inc
    ];

    /// A vCPU in 16-bit mode.
    pub fn vcpu(vm: &KvmVm) -> Result<VcpuFd> {
        let vcpu = vm.fd().create_vcpu(0)?;
        let (mut regs, mut sregs) = registers(&vcpu)?;
        (sregs.cs.base, sregs.cs.selector) = (RAM, 0x1000);
        (regs.rip, regs.rflags) = (0, 2);
        set_registers(&vcpu, &(regs, sregs))?;
        Ok(vcpu)
    }

    pub fn registers(vcpu: &VcpuFd) -> Result<Registers> {
        Ok((vcpu.get_regs()?, vcpu.get_sregs()?))
    }

    pub fn set_registers(vcpu: &VcpuFd, (regs, sregs): &Registers) -> Result<()> {
        vcpu.set_sregs(sregs)?;
        Ok(vcpu.set_regs(regs)?)
    }
}

#[cfg(target_arch = "aarch64")]
mod guest {
    use super::*;
    use kvm_slots::kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64};

    pub type Registers = Vec<[u8; 8]>;
    pub const PROTECTED_VM: Option<u64> = None;
    pub const CODE: &[u8] = &[
        0x00, 0x00, 0x01, 0x10, // adr x0, RAM + 0x2000
        0x01, 0x00, 0x80, 0xd2, // mov x1, 0
        0x02, 0x00, 0x40, 0xb9, // ldr w2, [x0]
        0x42, 0x04, 0x00, 0x11, // add w2, w2, 1
        0x02, 0x00, 0x00, 0xb9, // str w2, [x0]
        0x22, 0x00, 0x00, 0x39, // strb w2, [x1]
        0xfc, 0xff, 0xff, 0x17, // b ldr
    ];
    /// X0 to X30, SP, PC and PSTATE, in units of 4 bytes.
    const CORE: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;
    const PC: usize = 32;

    /// A vCPU at EL1 that starts at the RAM.
    pub fn vcpu(vm: &KvmVm) -> Result<VcpuFd> {
        let vcpu = vm.fd().create_vcpu(0)?;
        let mut target = Default::default();
        vm.fd().get_preferred_target(&mut target)?;
        vcpu.vcpu_init(&target)?;
        let mut registers = registers(&vcpu)?;
        registers[PC] = RAM.to_le_bytes();
        set_registers(&vcpu, &registers)?;
        Ok(vcpu)
    }

    pub fn registers(vcpu: &VcpuFd) -> Result<Registers> {
        let one = |number: u64| {
            let mut value = [0; 8];
            vcpu.get_one_reg(CORE | (2 * number), &mut value)?;
            Ok(value)
        };
        (0..34).map(one).collect()
    }

    pub fn set_registers(vcpu: &VcpuFd, registers: &Registers) -> Result<()> {
        for (number, value) in (0..).zip(registers) {
            vcpu.set_one_reg(CORE | (2 * number), value)?;
        }
        Ok(())
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod guest {
    use super::*;

    pub type Registers = ();
    pub const PROTECTED_VM: Option<u64> = None;
    pub const CODE: &[u8] = &[];

    pub fn vcpu(_: &KvmVm) -> Result<VcpuFd> {
        Err("no guest".into())
    }

    pub fn registers(_: &VcpuFd) -> Result<Registers> {
        Ok(())
    }

    pub fn set_registers(_: &VcpuFd, (): &Registers) -> Result<()> {
        Ok(())
    }
}
