// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM, and holds of its vCPU.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::kvm_bindings::kvm_userspace_memory_region;
use kvm_slots::kvm_ioctls::Kvm;
use kvm_slots::vcpu_gate::{GatedVcpu, RunOutcome, VcpuGate};
use kvm_slots::{Capabilities, KvmVm, Vm};
use memmap2::{MmapMut, MmapRaw};

use crate::arch;

/// The address of the guest's counter. Its memory starts at 0.
pub(super) const COUNTER: u16 = 0x800;

pub(super) fn hold_and_release(kvm: &Kvm) -> Result<(), Box<dyn Error>> {
    let vm = arch::new_vm(kvm)?;
    let memory = Memory::new(Capabilities::probe(&vm).page_size.bytes())?;
    let mut region = kvm_userspace_memory_region {
        memory_size: memory.size(),
        userspace_addr: memory.0.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the mapping is accessed by atomics alone once a guest runs,
    // and is unmapped after the vCPU has stopped.
    unsafe { vm.set_user_memory_region(&region) }?;

    let gate = VcpuGate::new()?;
    let vcpu = gate.vcpu(arch::new_vcpu(vm.fd())?)?;
    let thread = thread::spawn(move || run(vcpu));
    let held = (1..=3).try_for_each(|round| {
        println!("Round {round}:");
        hold(&gate, &vm, &memory, &mut region)
    });
    gate.stop();
    thread.join().map_err(|_| "the vCPU's thread panicked")??;
    println!("Stopped.");
    held
}

fn hold(
    gate: &VcpuGate,
    vm: &KvmVm,
    memory: &Memory,
    region: &mut kvm_userspace_memory_region,
) -> Result<(), Box<dyn Error>> {
    memory.wait_until_it_counts()?;
    let start = Instant::now();
    let held = gate.hold();
    println!("  held after {:?}", start.elapsed());
    let before = memory.counter();
    println!("  the guest has counted to {before}");
    for size in [0, memory.size()] {
        region.memory_size = size;
        // SAFETY: the caller keeps the mapping until the vCPU has stopped.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    thread::sleep(Duration::from_millis(10));
    let after = memory.counter();
    println!("  its slot was deleted and recreated; 10 ms later: {after}");
    drop(held);
    match before == after {
        true => Ok(()),
        false => Err("the guest ran while it was held".into()),
    }
}

fn run(mut vcpu: GatedVcpu) -> Result<(), String> {
    loop {
        match vcpu.run().map_err(|error| error.to_string())? {
            RunOutcome::Exit(exit) => return Err(format!("the guest exits: {exit:?}")),
            RunOutcome::Kicked | RunOutcome::Interrupted => {}
            RunOutcome::Stopped => return Ok(()),
        }
    }
}

/// Whole pages with what the guest starts from, and its counter.
struct Memory(MmapRaw);

impl Memory {
    fn new(page_size: u64) -> Result<Self, Box<dyn Error>> {
        let image = arch::memory();
        let pages = image.len().next_multiple_of(page_size.try_into()?);
        let mut memory = MmapMut::map_anon(pages)?;
        memory[..image.len()].copy_from_slice(&image);
        Ok(Self(memory.into()))
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn counter(&self) -> u32 {
        // SAFETY: the counter is in the mapping, which lives as long as
        // `self`, and is aligned. It is accessed by atomics alone.
        let counter =
            unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(COUNTER.into()).cast()) };
        counter.load(Ordering::SeqCst)
    }

    fn wait_until_it_counts(&self) -> Result<(), String> {
        let (start, from) = (Instant::now(), self.counter());
        while self.counter() == from {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("the guest does not count".into());
            }
            thread::yield_now();
        }
        Ok(())
    }
}
