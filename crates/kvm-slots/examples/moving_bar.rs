// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moves a BAR that is memory, while a vCPU reads it. The guest sees the BAR at its
//! old or its new place, and nothing in between: where a move leaves a gap, the vCPU is
//! held.
//!
//! `cargo run -p kvm-slots --all-features --example moving_bar`

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use kvm_slots::kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use kvm_slots::vcpu_gate::{GatedVcpu, RunOutcome, VcpuGate};
use kvm_slots::{AbiProfile, KvmVm, SlotListener, Slots};
use memory_model::{HostMemory, MemoryModel, Region, ViewReader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory};

type Failure = Box<dyn Error + Send + Sync>;

const RAM: u64 = 0x1_0000;
/// The guest reads here.
const READS: [u64; 2] = [0xe001_0000, 0xf000_0000];
/// The BAR has two halves of this size. Its words are 1 in the first, 2 in the second.
const HALF: u64 = 0x1_0000;
/// The BAR's places. The first two overlap: without a hold, the guest would see a gap.
const PLACES: [u64; 3] = [0xe000_0000, 0xe001_0000, 0xf000_0000];

fn main() -> Result<(), Failure> {
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
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x1_0000)])?;
    ram.write_slice(CODE, GuestAddress(RAM))?;
    let memory = Arc::new(MmapRegion::<()>::new(0x2_0000)?);
    memory.get_ref(0)?.store(1_u32);
    memory.get_ref(0x1_0000)?.store(2_u32);
    let host = HostMemory::of_mmap(memory.clone()).ok_or("the BAR is not mapped")?;

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64))?;
    t.add_guest_memory(root, &ram, &())?;
    let bar = t.add(Region::device_ram("bar", host))?;
    t.place(bar, root, PLACES[0], 0)?;
    t.commit()?;
    let space = model.add_space("memory", root)?;

    // Only moves by less than the BAR's size hold the vCPU.
    let vm = KvmVm::create(&kvm, 0)?;
    let gate = VcpuGate::new()?;
    // SAFETY: no one else makes slots of this VM.
    let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
    let listener = Arc::new(SlotListener::new(slots, gate.clone()).keeping_latest_plan());
    model.add_listener(space, 0, listener.clone())?;

    let vcpu = gate.vcpu(new_vcpu(&vm)?)?;
    let (reader, (sender, words)) = (model.reader(space), channel());
    let thread = thread::spawn(move || run(vcpu, &reader, &memory, &sender));
    let moves = PLACES.iter().zip(PLACES.iter().cycle().skip(1)).cycle();
    for (number, (&from, &to)) in moves.take(300).enumerate() {
        while words.try_recv().is_ok() {}
        let mut t = model.transaction();
        t.move_to(bar, to)?;
        t.commit()?;
        // All reads during the move, and some after it.
        let seen: BTreeSet<(u64, u32)> = words.try_iter().chain(words.iter().take(4)).collect();
        let plan = listener.take_latest_plan().ok_or("the move has no plan")?;
        if number < PLACES.len() {
            let ops: Vec<String> = plan.ops().iter().map(ToString::to_string).collect();
            println!("{}; vCPU held: {}", ops.join("; "), plan.holds_vcpus());
            println!("  the guest has seen {seen:x?}");
        }
        let old_or_new = |&(at, word)| [from, to].map(|bar| word_at(bar, at)).contains(&word);
        if !seen.iter().all(old_or_new) {
            return Err(format!("from {from:#x} to {to:#x}: {seen:x?}").into());
        }
    }
    gate.stop();
    thread.join().map_err(|_| "the vCPU's thread panicked")??;
    println!("In 300 moves, the guest has seen the BAR at its old or its new place.");
    Ok(())
}

/// What the guest reads at an address while the BAR is at a place.
fn word_at(bar: u64, address: u64) -> u32 {
    match address.checked_sub(bar).map(|offset| offset / HALF) {
        Some(0) => 1,
        Some(1) => 2,
        _ => u32::MAX,
    }
}

/// Runs the vCPU, and sends each word that its guest reports.
fn run(
    mut vcpu: GatedVcpu,
    reader: &ViewReader<()>,
    bar: &MmapRegion<()>,
    words: &Sender<(u64, u32)>,
) -> Result<(), Failure> {
    loop {
        match vcpu.run_with(|| reader.snapshot())? {
            (RunOutcome::Exit(VcpuExit::MmioRead(gpa, data)), Some(view)) => {
                // The BAR may have moved here after the guest found nothing here.
                data.fill(0xff);
                if let Some(at) = view.find(gpa).and_then(|run| run.offset_of(gpa)) {
                    bar.get_slice(at.try_into()?, data.len())?.copy_to(data);
                }
            }
            (RunOutcome::Exit(VcpuExit::MmioWrite(register, data)), _) => {
                let read = READS[usize::from(register != 0)];
                words.send((read, u32::from_le_bytes((*data).try_into()?)))?;
            }
            (RunOutcome::Exit(exit), _) => return Err(format!("the guest exits: {exit:?}").into()),
            (RunOutcome::Stopped, _) => return Ok(()),
            (RunOutcome::Kicked | RunOutcome::Interrupted, _) => {}
        }
    }
}

/// Stores the words at `READS` to the registers at 0 and 4.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x67, 0x66, 0xa1, 0x00, 0x00, 0x01, 0xe0, // mov eax, [0xe001_0000]
    0x66, 0xa3, 0x00, 0x00, // mov [0], eax
    0x67, 0x66, 0xa1, 0x00, 0x00, 0x00, 0xf0, // mov eax, [0xf000_0000]
    0x66, 0xa3, 0x04, 0x00, // mov [4], eax
    0xeb, 0xe8, // jmp to the first
];

/// A vCPU in 16-bit mode with a data segment of 4 GiB.
#[cfg(target_arch = "x86_64")]
fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Failure> {
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (RAM, 0x1000);
    (sregs.ds.limit, sregs.ds.g) = (u32::MAX, 1);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (0, 2);
    vcpu.set_regs(&regs)?;
    Ok(vcpu)
}

/// The same.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x20, 0x00, 0xbc, 0xd2, // mov x0, 0xe001_0000
    0x01, 0x00, 0xbe, 0xd2, // mov x1, 0xf000_0000
    0x02, 0x00, 0x80, 0xd2, // mov x2, 0
    0x03, 0x00, 0x40, 0xb9, // ldr w3, [x0]
    0x43, 0x00, 0x00, 0xb9, // str w3, [x2]
    0x23, 0x00, 0x40, 0xb9, // ldr w3, [x1]
    0x43, 0x04, 0x00, 0xb9, // str w3, [x2, 4]
    0xfc, 0xff, 0xff, 0x17, // b to the first ldr
];

/// A vCPU at EL1.
#[cfg(target_arch = "aarch64")]
fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Failure> {
    use kvm_slots::kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64};
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut target = Default::default();
    vm.fd().get_preferred_target(&mut target)?;
    vcpu.vcpu_init(&target)?;
    // PC. Registers are counted in units of 4 bytes.
    let pc = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | 2 * 32;
    vcpu.set_one_reg(pc, &RAM.to_le_bytes())?;
    Ok(vcpu)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CODE: &[u8] = &[];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn new_vcpu(_: &KvmVm) -> Result<VcpuFd, Failure> {
    Err("no guest".into())
}
