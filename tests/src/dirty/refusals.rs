// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls that the real and the simulated KVM refuse, with the errors.

use std::fmt::Debug;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_slots::dirty::{LoggingVm, ManualProtect};
use kvm_slots::sim::SimVm;
use kvm_slots::{Errno, Vm};
use vmm::HostMapping;
use vmm::backend::Platform;

use crate::like_host::simulated_like;
use crate::needs::{empty, kvm};

/// A slot with a log, one without, and one that does not exist.
const LOGGED: u32 = 3;
const PLAIN: u32 = 4;
const ABSENT: u32 = 5;
const PAGES: u64 = 200;

/// Makes the same call on both.
pub fn refusals_are_the_same() -> Result<(), String> {
    let kvm = kvm(&empty())?;
    let real = kvm.vm().clone();
    let sim = SimVm::new(simulated_like(&real, kvm.physical_bits())?);
    let page = real.page_size().bytes();
    let memory = HostMapping::anonymous(2 * PAGES * page).map_err(|e| e.to_string())?;
    let memory = Arc::new(memory);
    let (of_real, of_sim) = (answers(&real, &memory), answers(&sim, &memory));
    let differ: Vec<String> = of_real
        .iter()
        .zip(&of_sim)
        .filter(|(real, sim)| real != sim)
        .map(|(real, sim)| format!("real: {real}; simulated: {sim}"))
        .collect();
    let enough = of_real.len() == of_sim.len() && of_real.len() > 60;
    match enough && differ.is_empty() {
        true => Ok(()),
        false => Err(format!("{} answers; {}", of_real.len(), differ.join("\n"))),
    }
}

fn answers(vm: &impl LoggingVm, memory: &HostMapping) -> Vec<String> {
    let mut all = Vec::new();
    let mut say = |what: String, answer: &dyn Debug| all.push(format!("{what}: {answer:?}"));
    for options in 0..4 {
        let options = ManualProtect::from_bits_retain(options);
        say(
            format!("options {options:?}"),
            &vm.set_manual_protect(options),
        );
    }
    say(
        "a wrong option".into(),
        &vm.set_manual_protect(ManualProtect::from_bits_retain(5)),
    );
    let manual = vm.set_manual_protect(ManualProtect::ENABLE);
    say("manual".into(), &manual);
    say("reset without a ring".into(), &vm.reset_dirty_rings());
    let beside = vm.enable_log_beside_ring();
    say("a log beside a ring without a ring".into(), &beside);
    for (slot, flags) in [(LOGGED, KVM_MEM_LOG_DIRTY_PAGES), (PLAIN, 0)] {
        say(format!("slot {slot}"), &make(vm, memory, slot, flags));
    }
    // The last ones are not valid: slot numbers and address spaces end below
    // them.
    let slots = [LOGGED, PLAIN, ABSENT, 40_000, 7 << 16, u32::MAX];
    for slot in slots {
        say(format!("log of slot {slot:#x}"), &vm.get_dirty_log(slot));
    }
    for slot in slots {
        for (first, num) in [
            (0, 0),
            (0, 1),
            (0, 64),
            (0, 63),
            (0, 128),
            (0, 200),
            (0, 201),
            (64, 64),
            (64, 136),
            (64, 137),
            (128, 72),
            (128, 64),
            (128, 71),
            (192, 8),
            (192, 7),
            (192, 9),
            (192, 64),
            (1, 64),
            (63, 1),
            (200, 0),
            (256, 0),
            (256, 64),
            (u64::MAX, 64),
            (u64::MAX - 63, 64),
        ] {
            let cleared = vm.clear_dirty_log(slot, first, num, &[u64::MAX; 4]);
            say(
                format!("clear {num} from {first} in slot {slot:#x}"),
                &cleared,
            );
        }
    }
    for bytes in [
        0,
        1,
        1000,
        2048,
        4096,
        4097,
        1 << 20,
        1 << 21,
        1 << 31,
        8192,
    ] {
        say(
            format!("a ring of {bytes} bytes"),
            &vm.enable_dirty_ring(bytes),
        );
    }
    for slot in slots {
        say(
            format!("log of slot {slot:#x} where there is a ring"),
            &vm.get_dirty_log(slot),
        );
    }
    let beside = vm.enable_log_beside_ring();
    say(
        "a log beside the ring where there are slots".into(),
        &beside,
    );
    let cleared = vm.clear_dirty_log(LOGGED, 1, 64, &[0]);
    say("clearing where there is a ring".into(), &cleared);
    say("reset of nothing".into(), &vm.reset_dirty_rings());
    all
}

fn make(vm: &impl LoggingVm, memory: &HostMapping, slot: u32, flags: u32) -> Result<(), Errno> {
    let size = PAGES * vm.page_size().bytes();
    let offset = u64::from(slot - LOGGED) * size;
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: offset,
        memory_size: size,
        userspace_addr: memory.address() + offset,
    };
    // SAFETY: the VM never has a vCPU, so nothing accesses the memory through
    // the slot, and the mapping outlives both VMs.
    unsafe { vm.set_user_memory_region(&region) }
}
