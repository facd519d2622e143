// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The requests to KVM that start a kernel, and no others: the same VM, RAM and
//! vCPU as `vmm boot` has.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use memmap2::{MmapMut, MmapOptions};
use tests::vcpu::x86_64::long_mode;
use vmm::boot::x86_64::acpi::SLEEP_OFF;
use vmm::boot::x86_64::layout::{
    COM1, KERNEL, KVM_IDENTITY_MAP, KVM_TSS, PAGE_TABLES, POWER_PORTS,
};

use super::RAM;
use super::image::{ENTRY, SETUP};

/// Runs the kernel until it switches the machine off.
///
/// # Errors
/// A request is refused, or the kernel does something else.
pub fn run(image: &str) -> Result<(), String> {
    let kvm = Kvm::new().map_err(failed("/dev/kvm"))?;
    let vm = new_vm(&kvm)?;
    let ram = new_ram(&vm, image)?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("a vCPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let regs = kvm_regs {
        rip: KERNEL + ENTRY as u64,
        ..Default::default()
    };
    let cpuid = cpuid.map_err(failed("CPUID"))?;
    long_mode::start(&vcpu, &cpuid, PAGE_TABLES, regs).map_err(failed("registers"))?;
    loop {
        match vcpu.run().map_err(failed("KVM_RUN"))? {
            VcpuExit::IoOut(COM1, data) => {
                let written = io::stdout().write_all(data);
                written.map_err(|e| format!("the output: {e}"))?;
            }
            VcpuExit::IoOut(port, [SLEEP_OFF]) if port == POWER_PORTS.0 => break,
            other => return Err(format!("the vCPU stopped: {other:x?}")),
        }
    }
    // The guest is over before its RAM is unmapped.
    drop((vcpu, vm, ram));
    Ok(())
}

fn new_vm(kvm: &Kvm) -> Result<VmFd, String> {
    let vm = kvm.create_vm().map_err(failed("a VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(failed("its identity map"))?;
    let task = usize::try_from(KVM_TSS).map_err(|e| e.to_string())?;
    vm.set_tss_address(task).map_err(failed("its task state"))?;
    vm.create_irq_chip()
        .map_err(failed("interrupt controllers"))?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(failed("a timer"))?;
    Ok(vm)
}

/// RAM with the kernel and page tables.
fn new_ram(vm: &VmFd, image: &str) -> Result<MmapMut, String> {
    let place = |address: u64| usize::try_from(address).map_err(|e| e.to_string());
    let mut options = MmapOptions::new();
    let options = options.len(place(RAM << 20)?).no_reserve_swap();
    let mut ram = options.map_anon().map_err(|e| format!("RAM: {e}"))?;
    let unread = |e| format!("{image}: {e}");
    let file = File::open(image).map_err(unread)?;
    let size = place(file.metadata().map_err(unread)?.len())? - SETUP;
    let kernel = &mut ram[place(KERNEL)?..][..size];
    file.read_exact_at(kernel, SETUP as u64).map_err(unread)?;
    for (offset, word) in long_mode::tables(PAGE_TABLES) {
        let at = place(PAGE_TABLES + offset)?;
        ram[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let slot = kvm_userspace_memory_region {
        memory_size: RAM << 20,
        userspace_addr: ram.as_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the slot is this mapping, which outlives the VM, and which this
    // process does not access from here on.
    unsafe { vm.set_user_memory_region(slot) }.map_err(failed("RAM"))?;
    Ok(ram)
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> String {
    move |error| format!("{what}: {error}")
}
