// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a guest's pages is bounded, however the guest moves its memory.

use crate::common;

use common::PAGE;
use common::layout::{Noting, SharedSteps, lock};
use common::region::private_vm;
use kvm_slots::SlotBacking;
use kvm_slots::convert::{
    ConvertError, Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, GuestPages,
    Home, PageRange, Refusal,
};
use kvm_slots::sim::{KernelVersion, SimVm};

/// The pages that share a bitmap, and the size of a bitmap.
const CHUNK: u64 = 16 << 20;
const CHUNK_BYTES: usize = 576;

/// KVM_HC_MAP_GPA_RANGE: encrypted, or not.
const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

type Guest = Converter<Noting, ConvertibleMemory>;

fn guest(limit: usize, steps: &SharedSteps) -> Guest {
    let mut memory = ConvertibleMemory::new();
    assert_eq!(memory.state_limit(), ConvertibleMemory::DEFAULT_STATE_LIMIT);
    memory.set_state_limit(limit);
    let vm = Noting::new(SimVm::new(private_vm(KernelVersion::V7_3)), steps);
    Converter::new(vm, Home::VmAttributes, memory)
}

/// A BAR of a page moves, and the guest makes it private there.
fn convert_at(guest: &Guest, gpa: u64) -> Result<u64, ConvertError> {
    let file = common::file(-1, 0);
    let backing = SlotBacking::GuestMemfd { file, host: None };
    let range = ConvertibleRange::new(&common::range(gpa, PAGE, backing), GuestMemfdSides::Both);
    guest.with_pages(|m| m.set_ranges(range)).unwrap().unwrap();
    Ok(guest.hypercall(gpa, 1, PRIVATE)?.bytes)
}

fn refused(result: Result<u64, ConvertError>, gpa: u64) -> bool {
    let no_room = Refusal::NoRoom {
        range: PageRange::new(gpa, PAGE).unwrap(),
    };
    matches!(result, Err(ConvertError::Refused(refusal)) if refusal == no_room)
}

#[test]
fn memory_that_moves_about_does_not_grow_the_state_beyond_the_limit() {
    let limit = 10 * CHUNK_BYTES;
    let steps = SharedSteps::default();
    let guest = guest(limit, &steps);
    for n in 0..10 {
        assert_eq!(convert_at(&guest, n * CHUNK).unwrap(), PAGE);
    }
    let before = lock(&steps).log.len();
    for n in 10..100 {
        assert!(refused(convert_at(&guest, n * CHUNK), n * CHUNK));
    }
    let bytes = guest.with_pages(|m| m.heap_bytes()).unwrap();
    assert!(limit / 2 < bytes && bytes <= limit, "{bytes}");
    assert_eq!(lock(&steps).log.len(), before, "KVM was not asked");
}

#[test]
fn where_memory_was_its_pages_can_be_made_shared_to_make_room() {
    let guest = guest(CHUNK_BYTES, &SharedSteps::default());
    convert_at(&guest, 0).unwrap();
    assert!(refused(convert_at(&guest, CHUNK), CHUNK));
    assert_eq!(guest.hypercall(0, 1, SHARED).unwrap().bytes, PAGE);
    assert_eq!(convert_at(&guest, CHUNK).unwrap(), PAGE);
    // Once more is no change, and needs no room.
    assert_eq!(convert_at(&guest, CHUNK).unwrap(), 0);
    let all = PageRange::new(0, 2 * CHUNK).unwrap();
    let private = guest.with_pages(|m| m.private(all).count());
    assert_eq!(private.unwrap(), 1);
}
