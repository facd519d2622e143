// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Regression tests: sequences on which the simulated KVM once disagreed with
//! the real one.

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY};
use kvm_slots::sim::{FileCall, PreFault, VmType};

use super::op::{Op, Region};
use crate::needs::Need;
use crate::subject::{HostChange, host_page_size};

/// A sequence of operations, named after what it shows.
#[derive(Clone, Debug)]
pub struct Regression {
    /// The name, a sentence with underscores.
    pub name: &'static str,
    /// What the sequence needs.
    pub needs: &'static [Need],
    /// The type of VM.
    pub vm_type: VmType,
    pub(super) ops: Vec<Op>,
}

/// All sequences, in pages of this host.
pub fn all() -> Vec<Regression> {
    let page = host_page_size();
    vec![
        plain(
            "reading_and_writing_a_guest_memfd_is_invalid_and_not_unseekable",
            &[Need::GuestMemfd],
            vec![
                create(0),
                Op::Call(0, FileCall::Read),
                Op::Call(0, FileCall::Write),
            ],
        ),
        plain(
            "an_ioctl_of_a_vcpu_that_does_not_exist_is_invalid_and_not_inappropriate",
            &[Need::Kvm],
            vec![Op::PreFault(PreFault {
                gpa: 0,
                size: page,
                flags: 0,
            })],
        ),
        plain(
            "where_the_host_has_no_memory_an_emulated_guest_exits_and_another_fails",
            &[Need::Kvm],
            accesses_to(0, HostChange::Unmap),
        ),
        plain(
            "where_the_host_has_no_memory_a_read_only_slot_is_no_different_for_loads",
            &[Need::Kvm],
            accesses_to(KVM_MEM_READONLY, HostChange::Unmap),
        ),
        plain(
            "memory_that_the_host_may_not_write_is_read_all_the_same",
            &[Need::Kvm],
            accesses_to(0, HostChange::Protect),
        ),
        plain(
            "a_store_across_two_pages_changes_neither_if_it_fails",
            &[Need::Kvm],
            vec![
                set(Region {
                    ..Region::of_size(2 * page)
                }),
                Op::Host(1, HostChange::Unmap),
                access(page - 4, 8, Some(u64::MAX)),
                Op::HostLoad(page - 8),
            ],
        ),
        plain(
            "accesses_across_the_end_of_a_slot_exit_for_the_same_bytes",
            &[Need::Kvm],
            vec![
                set(Region::of_size(page)),
                Op::HostStore(page - 8, 0x1122_3344_5566_7788),
                access(page - 4, 8, None),
                access(page - 3, 4, Some(0xaabb_ccdd)),
                Op::HostLoad(page - 8),
            ],
        ),
        plain(
            "a_mapped_file_is_what_the_processor_reaches_and_not_the_host_address_beside_it",
            &[Need::MappableGuestMemfd],
            vec![
                Op::Create {
                    at: 0,
                    size: page,
                    flags: 3,
                },
                set(Region {
                    flags: KVM_MEM_GUEST_MEMFD,
                    ..Region::of_size(page)
                }),
                access(0, 8, Some(1)),
                Op::HostLoad(0),
                Op::HostStore(0, 2),
                access(0, 8, None),
                Op::Close(0),
                access(0, 8, None),
            ],
        ),
        plain(
            "a_file_that_was_closed_is_not_the_next_one_at_its_number",
            &[Need::MappableGuestMemfd],
            vec![
                Op::Create {
                    at: 0,
                    size: page,
                    flags: 3,
                },
                set(Region {
                    flags: KVM_MEM_GUEST_MEMFD,
                    ..Region::of_size(page)
                }),
                Op::Close(0),
                Op::Create {
                    at: 0,
                    size: page,
                    flags: 3,
                },
                access(0, 8, Some(1)),
                set(Region {
                    slot: 1,
                    gpa: page,
                    flags: KVM_MEM_GUEST_MEMFD,
                    ..Region::of_size(page)
                }),
                access(page, 8, None),
            ],
        ),
        plain(
            "slots_end_where_the_second_page_table_does",
            &[Need::Kvm],
            (32..64)
                .map(|bits| {
                    set(Region {
                        slot: bits,
                        gpa: 1 << bits,
                        ..Region::of_size(page)
                    })
                })
                .collect(),
        ),
        Regression {
            vm_type: VmType::SwProtected,
            ..plain(
                "a_page_that_was_seen_to_be_mmio_stays_so_until_slots_change",
                &[Need::PrivatePages],
                vec![
                    access(page, 8, None),
                    Op::Attributes {
                        gpa: page,
                        size: 2 * page,
                        attributes: 8,
                    },
                    access(page, 8, Some(1)),
                    access(2 * page, 8, None),
                    set(Region::of_size(page)),
                    access(page, 8, Some(1)),
                ],
            )
        },
    ]
}

fn plain(name: &'static str, needs: &'static [Need], ops: Vec<Op>) -> Regression {
    Regression {
        name,
        needs,
        vm_type: VmType::Plain,
        ops,
    }
}

/// Loads and stores before and after the host changes the page.
fn accesses_to(flags: u32, change: HostChange) -> Vec<Op> {
    let page = host_page_size();
    let region = Region {
        flags,
        ..Region::of_size(2 * page)
    };
    let both = [access(page + 8, 4, None), access(page + 8, 4, Some(5))];
    let change = Op::Host(1, change);
    let renew = Op::Host(1, HostChange::Renew);
    let [load, store] = both;
    vec![
        set(region),
        change.clone(),
        load.clone(),
        store.clone(),
        renew,
        store.clone(),
        load.clone(),
        change,
        load,
        store,
    ]
}

fn create(at: usize) -> Op {
    Op::Create {
        at,
        size: host_page_size(),
        flags: 0,
    }
}

fn set(region: Region) -> Op {
    Op::Set(region)
}

fn access(gpa: u64, size: usize, store: Option<u64>) -> Op {
    Op::Access { gpa, size, store }
}
