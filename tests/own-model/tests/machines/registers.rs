// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Private MMIO: a device's registers that only the guest touches.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_slots::convert::{MemoryError, PageRange};
use kvm_slots::sim::SimVm;
use own_model::{Refused, What, page_size};

use crate::hosts::{Host, Machine, region};

const AT: u64 = 0xe000_0000;

type Test = (&'static str, fn(Machine<SimVm>));

pub const ALL: [Test; 2] = [
    (
        "accepted_registers_without_a_host_address_are_reached_directly",
        accepted_registers_without_a_host_address_are_reached_directly,
    ),
    (
        "accepted_registers_stay_until_they_are_revoked",
        accepted_registers_stay_until_they_are_revoked,
    ),
];

fn with_registers(machine: &mut Machine<SimVm>) -> File {
    let file = Arc::new(
        machine
            .vmm
            .vm()
            .registers(4 * page_size())
            .expect("a dma-buf"),
    );
    machine.change(|model| model.add(region(1, AT, 4, What::PrivateRegisters(file.clone()))));
    File::from(file.try_clone().expect("a descriptor"))
}

fn accept(machine: &Machine<SimVm>, pages: u64) {
    let accept = kvm_slots::convert::Request::accept(AT, pages * page_size()).expect("pages");
    let accepted = machine.vmm.converter().convert(accept);
    assert_eq!(accepted.expect("an acceptance").bytes, pages * page_size());
}

fn accepted_registers_without_a_host_address_are_reached_directly(mut machine: Machine<SimVm>) {
    let device = with_registers(&mut machine);
    device
        .write_all_at(&[0x5a], 2 * page_size())
        .expect("in it");
    machine.faults(AT + 2 * page_size());
    accept(&machine, 4);
    machine.loads(AT + 2 * page_size(), 0x5a);
    machine.stores(AT + page_size(), 0x77);
    let mut byte = [0];
    device.read_exact_at(&mut byte, page_size()).expect("in it");
    assert_eq!(byte, [0x77]);
    let slots = machine.vmm.vm().memslots();
    assert_eq!(slots.len(), 1);
    assert_eq!(
        (slots[0].userspace_addr, slots[0].file_offset),
        (0, Some(0))
    );
}

fn accepted_registers_stay_until_they_are_revoked(mut machine: Machine<SimVm>) {
    let _device = with_registers(&mut machine);
    accept(&machine, 2);
    for page in 0..2 {
        machine.stores(AT + u64::from(page) * page_size(), page + 1);
    }
    machine.faults(AT + 2 * page_size());
    let moved = machine
        .vmm
        .change(|model| model.move_to(1, AT + 16 * page_size()));
    assert!(matches!(
        moved,
        Err(Refused::Memory(MemoryError::Accepted { .. }))
    ));
    machine.loads(AT + page_size(), 2);
    let all = PageRange::new(AT, 4 * page_size()).expect("pages");
    let revoked = machine.vmm.converter().revoke(all).expect("no panic");
    assert_eq!(revoked.bytes, 2 * page_size());
    machine.faults(AT + page_size());
    machine.change(|model| model.move_to(1, AT + 16 * page_size()));
    machine.faults(AT + 17 * page_size());
    machine.exits(AT);
}
