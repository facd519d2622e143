// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KvmVm` and its vCPUs without a guest that runs: how a VM is created, what is known of its
//! addresses, and why a run failed.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO};
use kvm_ioctls::Kvm;
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::{
    AbiProfile, AddressBits, Capabilities, Errno, HostMemory, KvmVm, SlotAccess, SlotBacking,
    SlotRange, SlotTable, plan,
};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::check::{at, same};
use crate::end_to_end::Test;
use crate::needs::Need;

/// The tests, by name, with their needs.
pub const TESTS: [Test; 3] = [
    (
        "a_signal_does_not_keep_a_vm_from_being_created",
        &[Need::Kvm],
        signals_do_not_keep_vms_from_being_created,
    ),
    (
        "a_move_holds_vcpus_until_the_width_of_addresses_is_known",
        &[Need::Kvm],
        a_move_holds_vcpus_until_the_width_is_known,
    ),
    (
        "a_failed_run_is_a_fault_of_memory_only_if_kvm_says_so",
        &[Need::Kvm],
        a_failed_run_is_a_fault_only_if_kvm_says_so,
    ),
];

/// The number of VMs. Without retries, a signal ends one call in ten to one in a hundred.
const VMS: usize = 500;

/// Signals whose handler has no `SA_RESTART` arrive while a thread creates VMs.
fn signals_do_not_keep_vms_from_being_created() -> Result<(), String> {
    extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let signal = SIGRTMIN() + 10;
    register_signal_handler(signal, ignore).map_err(at("a handler"))?;
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let start = Instant::now();
    drop(KvmVm::create(&kvm, 0).map_err(at("a VM"))?);
    // Longer than a call takes, so that a slow processor can end one between two signals.
    let period = (2 * start.elapsed()).max(Duration::from_micros(50));
    let creator = thread::spawn(move || {
        let mut vms = (0..VMS).map(|number| {
            let created = KvmVm::create(&kvm, 0).map(drop);
            created.map_err(at(format_args!("VM {number}")))
        });
        vms.try_for_each(|created| created)
    });
    while !creator.is_finished() {
        creator.kill(signal).map_err(at("a signal"))?;
        thread::sleep(period);
    }
    creator.join().map_err(|_| "the thread panicked")?
}

/// On x86-64, the descriptor of a VM determines only an upper bound. A move within it can
/// fail after KVM has invalidated the slot.
fn a_move_holds_vcpus_until_the_width_is_known() -> Result<(), String> {
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let created = KvmVm::create(&kvm, 0).map_err(at("a VM"))?;
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        same("a move is held", moving_holds_vcpus(&created)?, false)?;
    }
    let vm = kvm.create_vm_with_type(0).map_err(at("a VM"))?;
    let vm = KvmVm::new(Arc::new(vm));
    let width = Capabilities::probe(&vm).address_bits;
    if cfg!(target_arch = "x86_64") {
        same("the width", width, Some(AddressBits::AtMost(52)))?;
    }
    let is_known = matches!(width, Some(AddressBits::Exact(_)));
    same("a move is held", moving_holds_vcpus(&vm)?, !is_known)?;
    let known = vm.with_address_bits(width.map_or(36, AddressBits::bits).min(36));
    same("a move is held then", moving_holds_vcpus(&known)?, false)
}

/// KVM reports a fault of memory beside the error, and the report stays until the next exit.
fn a_failed_run_is_a_fault_only_if_kvm_says_so() -> Result<(), String> {
    let (flags, gpa, size) = (MEMORY_EXIT_FLAG_PRIVATE, 0x1_2345_6000, 0x1000);
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let vm = KvmVm::create(&kvm, 0).map_err(at("a VM"))?;
    let mut vcpu = vm.fd().create_vcpu(0).map_err(at("a vCPU"))?;
    for (reason, errno, expected) in [
        (
            KVM_EXIT_MEMORY_FAULT,
            Errno::EFAULT,
            GuestFault::Memory { flags, gpa, size },
        ),
        (
            KVM_EXIT_MEMORY_FAULT,
            Errno::EHWPOISON,
            GuestFault::Memory { flags, gpa, size },
        ),
        (
            KVM_EXIT_MEMORY_FAULT,
            Errno::ENODEV,
            GuestFault::Revoked { flags, gpa, size },
        ),
        (
            KVM_EXIT_MEMORY_FAULT,
            Errno::EINVAL,
            GuestFault::Failed(Errno::EINVAL),
        ),
        (
            KVM_EXIT_MMIO,
            Errno::EFAULT,
            GuestFault::Failed(Errno::EFAULT),
        ),
        (
            KVM_EXIT_MMIO,
            Errno::ENODEV,
            GuestFault::Failed(Errno::ENODEV),
        ),
    ] {
        let run = vcpu.get_kvm_run();
        run.exit_reason = reason;
        // SAFETY: any bytes of this member are three valid numbers.
        let fault = unsafe { &mut run.__bindgen_anon_1.memory_fault };
        (fault.flags, fault.gpa, fault.size) = (flags, gpa, size);
        let found = GuestFault::of_failed_run(&mut vcpu, errno);
        same(&format!("exit {reason} with {errno}"), found, expected)?;
    }
    Ok(())
}

/// Whether a plan that moves one slot holds vCPUs.
fn moving_holds_vcpus(vm: &KvmVm) -> Result<bool, String> {
    let capabilities = Capabilities::probe(vm);
    let page = capabilities.page_size.bytes();
    let memory = HostMemory::placeholder(page).ok_or("no memory")?;
    let mut table = SlotTable::new();
    let mut plan = |gpa| {
        let backing = SlotBacking::Host(memory.clone());
        let range = SlotRange::new(gpa, SlotAccess::ReadWrite, backing).map_err(at("a range"))?;
        let plan = plan::plan(&table, &[range], &capabilities, AbiProfile::None);
        let plan = plan.map_err(at("a plan"))?;
        table.follow(&plan).map_err(at("the table"))?;
        Ok::<_, String>(plan)
    };
    plan(0)?;
    Ok(plan(4 * page)?.holds_vcpus())
}
