// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds a real vCPU that counts in guest memory, deletes and recreates the slot
//! of that memory, and lets the vCPU run again. The vCPU notices nothing.
//!
//! `cargo run -p kvm-slots --example vcpu_gate --features vcpu-gate`

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    match kvm_ioctls::Kvm::new() {
        Ok(kvm) => counting::hold_and_release(&kvm),
        Err(error) => {
            println!("This example needs /dev/kvm, which cannot be opened: {error}");
            Ok(())
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn main() {
    println!("This example has no guest code for this architecture.");
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod counting {
    use std::error::Error;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::Kvm;
    use kvm_slots::vcpu_gate::{GatedVcpu, RunOutcome, VcpuGate};
    use kvm_slots::{KvmVm, Vm};
    use memmap2::MmapRaw;

    #[cfg(target_arch = "aarch64")]
    use super::aarch64::{COUNTER, SIZE, START, fill, new_vcpu};
    #[cfg(target_arch = "x86_64")]
    use super::x86_64::{COUNTER, SIZE, START, fill, new_vcpu};

    pub(super) fn hold_and_release(kvm: &Kvm) -> Result<(), Box<dyn Error>> {
        let vm = KvmVm::create(kvm, 0)?;
        let memory = Memory::new()?;
        let mut region = kvm_userspace_memory_region {
            guest_phys_addr: START,
            memory_size: SIZE as u64,
            userspace_addr: memory.0.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is accessed by atomics alone once a guest runs,
        // and is unmapped after the vCPU has stopped.
        unsafe { vm.set_user_memory_region(&region) }?;

        let gate = VcpuGate::new()?;
        let vcpu = gate.vcpu(new_vcpu(&vm)?)?;
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
        for size in [0, SIZE as u64] {
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

    /// Memory with the guest's code and counter.
    struct Memory(MmapRaw);

    impl Memory {
        fn new() -> Result<Self, Box<dyn Error>> {
            let mut memory = memmap2::MmapMut::map_anon(SIZE)?;
            fill(&mut memory);
            Ok(Self(memory.into()))
        }

        fn counter(&self) -> u32 {
            // SAFETY: the counter is in the mapping, which lives as long as
            // `self`, and is aligned. It is accessed by atomics alone.
            let counter = unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(COUNTER).cast()) };
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
}
