// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtio queue in the memory of a view, and what a driver can make a device access.

use crate::common;

use std::io::{Read, Write};

use common::mapped::{BAR, FLASH, MORE, Mapped, PRIVATE, RAM, ROM, Shared, page};
use memory_model::PageState;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

const SIZE: u16 = 4;
const TABLE: u64 = MORE;
const AVAIL: u64 = MORE + 0x100;
const USED: u64 = MORE + 0x200;
const BUFFER: u64 = RAM + 0x100;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn queue_at(table: u64, avail: u64, used: u64) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    let table = GuestAddress(table);
    queue.try_set_desc_table_address(table).unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(avail))
        .unwrap();
    queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
    queue.set_ready(true);
    queue
}

/// The driver makes the buffers available as one chain.
fn offer(memory: &Shared, buffers: &[(u64, u32, u16)]) {
    for (n, &(address, len, flags)) in (0_u16..).zip(buffers) {
        let has_next = usize::from(n) + 1 < buffers.len();
        let flags = flags | if has_next { NEXT } else { 0 };
        let at = GuestAddress(TABLE + 16 * u64::from(n));
        let descriptor = Descriptor::new(address, len, flags, n + 1);
        memory.write_obj(descriptor, at).unwrap();
    }
    // Flags, index, and the number of the first descriptor.
    memory
        .write_obj([0_u16, 1, 0], GuestAddress(AVAIL))
        .unwrap();
}

fn pop<'a>(queue: &mut Queue, memory: &'a Shared) -> DescriptorChain<&'a Shared> {
    assert!(queue.is_valid(memory));
    queue.pop_descriptor_chain(memory).expect("a chain")
}

#[test]
fn a_device_serves_a_queue_in_shared_memory() {
    let memory = Mapped::new().shared();
    let mut queue = queue_at(TABLE, AVAIL, USED);
    memory
        .write_slice(b"request", GuestAddress(BUFFER))
        .unwrap();
    // The second buffer goes over the border of two regions.
    offer(&memory, &[(BUFFER, 7, 0), (FLASH - 8, 8, WRITE)]);
    let chain = pop(&mut queue, &memory);
    let mut request = String::new();
    let mut reader = chain.clone().reader(&memory).unwrap();
    reader.read_to_string(&mut request).unwrap();
    assert_eq!(request, "request");
    let head = chain.head_index();
    chain
        .writer(&memory)
        .unwrap()
        .write_all(b"response")
        .unwrap();
    queue.add_used(&memory, head, 8).unwrap();
    let mut response = [0; 8];
    memory
        .read_slice(&mut response, GuestAddress(FLASH - 8))
        .unwrap();
    assert_eq!(&response, b"response");
    let index = memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap();
    assert_eq!(u16::from_le(index), 1);
}

#[test]
fn a_chain_that_points_to_what_is_private_is_an_error() {
    let memory = Mapped::new().shared();
    for (address, len) in [
        (BAR, 4),
        (PRIVATE, 0x1000),
        // Only a byte of it.
        (PRIVATE - 8, 9),
        (PRIVATE + 0xfff, 2),
        (BAR - 8, 9),
        (BAR + 0xfff, 2),
    ] {
        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(BUFFER, 8, 0), (address, len, 0)]);
        assert!(
            pop(&mut queue, &memory).reader(&memory).is_err(),
            "{address:#x}"
        );

        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(BUFFER, 8, WRITE), (address, len, WRITE)]);
        assert!(
            pop(&mut queue, &memory).writer(&memory).is_err(),
            "{address:#x}"
        );

        // A device that looks at its descriptors itself fares no better.
        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(address, len, 0)]);
        let found = pop(&mut queue, &memory).next().unwrap();
        let mut buffer = vec![0; usize::try_from(found.len()).unwrap()];
        assert!(memory.read(&mut buffer, found.addr()).is_err());
        assert!(memory.write(&buffer, found.addr()).is_err());
    }
}

#[test]
fn a_device_does_not_write_to_rom() {
    let memory = Mapped::new().shared();
    for (address, len) in [(ROM, 8), (ROM - 4, 8), (FLASH - 4, 8)] {
        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(address, len, WRITE)]);
        assert!(pop(&mut queue, &memory).writer(&memory).is_err());
        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(address, len, 0)]);
        assert!(pop(&mut queue, &memory).reader(&memory).is_ok());
    }
}

#[test]
fn an_indirect_table_that_is_private_ends_the_chain() {
    let memory = Mapped::new().shared();
    for table in [PRIVATE, BAR] {
        let mut queue = queue_at(TABLE, AVAIL, USED);
        offer(&memory, &[(table, 32, INDIRECT)]);
        assert_eq!(pop(&mut queue, &memory).count(), 0);
    }
}

#[test]
fn a_queue_that_is_not_all_in_shared_memory_is_not_valid() {
    let memory = Mapped::new().shared();
    for wrong in [BAR, PRIVATE] {
        for place in 0..3 {
            let mut places = [TABLE, AVAIL, USED];
            places[place] = wrong;
            let [table, avail, used] = places;
            let mut queue = queue_at(table, avail, used);
            assert!(!queue.is_valid(&memory), "{places:x?}");
            // Even a device that does not ask.
            if place == 1 {
                assert!(queue.pop_descriptor_chain(&memory).is_none());
            }
        }
    }
    // Only the end of each.
    assert!(!queue_at(PRIVATE - 0x10, AVAIL, USED).is_valid(&memory));
    assert!(!queue_at(TABLE, PRIVATE - 8, USED).is_valid(&memory));
    assert!(!queue_at(TABLE, AVAIL, PRIVATE - 8).is_valid(&memory));
    // A device writes the used ring.
    assert!(!queue_at(TABLE, AVAIL, ROM).is_valid(&memory));
    assert!(queue_at(ROM, ROM + 0x100, USED).is_valid(&memory));
}

#[test]
fn a_queue_whose_memory_becomes_private_ends() {
    let memory = Mapped::new().shared();
    let used = RAM + 0x2000;
    let mut queue = queue_at(TABLE, AVAIL, used);
    offer(&memory, &[(BUFFER, 8, 0)]);
    assert!(queue.is_valid(&memory));
    memory
        .set_page_state(page(used), PageState::Private)
        .unwrap();
    assert!(!queue.is_valid(&memory));
    assert!(queue.add_used(&memory, 0, 8).is_err());
    memory
        .set_page_state(page(used), PageState::Shared)
        .unwrap();
    assert!(queue.add_used(&memory, 0, 8).is_ok());
}
