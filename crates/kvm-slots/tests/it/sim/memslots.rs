// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of the memslot ioctls, one by one: numbers and flags.

use crate::common;

use common::region::{ALL, EEXIST, EINVAL, Guestless, NEWER, page, private_vm};
use common::{HOST, PAGE};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::Errno;
use kvm_slots::sim::{KernelVersion, SimConfig};

type Region = kvm_userspace_memory_region2;

const LOG: u32 = KVM_MEM_LOG_DIRTY_PAGES;
const READONLY: u32 = KVM_MEM_READONLY;

/// The end of a process's address space.
/// The end of a process's addresses: those of this host, where the memory of a simulated
/// guest is.
const USER_END: u64 = match cfg!(target_arch = "x86_64") {
    true => (1 << 47) - PAGE,
    false => 1 << 56,
};

#[test]
fn the_newer_ioctl_is_newer_than_6_1() {
    let vm = Guestless::released(KernelVersion::V6_1);
    assert_eq!(vm.set(page(0, 0)), Err(Errno::ENOTTY));
    assert_eq!(vm.create(PAGE, 0).unwrap_err(), Errno::ENOTTY);
    assert_eq!(vm.set_attributes(0, PAGE, 0), Err(Errno::ENOTTY));
    let capabilities = vm.capabilities();
    assert!(!capabilities.user_memory2 && !capabilities.guest_memfd);
    assert_eq!(vm.set_v1(page(0, 0)), Ok(()));
}

#[test]
fn the_older_ioctl_takes_logging_and_read_only_and_no_other_flag() {
    for kernel in ALL {
        let vm = Guestless::released(kernel);
        for bit in 0..32 {
            let flags = 1 << bit;
            let region = Region {
                flags,
                ..page(bit, u64::from(bit) * PAGE)
            };
            let expected = match flags {
                LOG | READONLY => Ok(()),
                _ => EINVAL,
            };
            assert_eq!(vm.set_v1(region), expected, "{kernel}: {flags:#x}");
        }
    }
}

#[test]
fn unknown_flags_are_invalid_each_of_them() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        for bit in (0..32).filter(|bit| 1 << bit != KVM_MEM_GUEST_MEMFD) {
            let flags = 1 << bit;
            let region = Region {
                flags,
                ..page(bit, u64::from(bit) * PAGE)
            };
            let expected = match flags {
                LOG | READONLY => Ok(()),
                _ => EINVAL,
            };
            assert_eq!(vm.set(region), expected, "{kernel}: {flags:#x}");
        }
        let both = Region {
            flags: LOG | READONLY,
            ..page(40, 40 * PAGE)
        };
        assert_eq!(vm.set(both), Ok(()));
    }
}

#[test]
fn slot_numbers_end_at_the_capability() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let limit = vm.capabilities().nr_memslots;
        assert_eq!(limit, 32764);
        assert_eq!(vm.set(page(limit - 1, 0)), Ok(()));
        for beyond in [limit, 0xffff, 0x1_ffff] {
            assert_eq!(vm.set(page(beyond, PAGE)), EINVAL);
            // The number is looked at even for a deletion.
            assert_eq!(vm.delete(beyond), EINVAL);
        }
    }
}

#[test]
fn as_many_slots_fit_as_the_capability_reports() {
    let vm = Guestless::new(SimConfig {
        nr_memslots: 64,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    for slot in 0..64 {
        assert_eq!(vm.set(page(slot, u64::from(slot) * PAGE)), Ok(()));
    }
    assert_eq!(vm.set(page(64, 64 * PAGE)), EINVAL);
}

#[test]
fn a_plain_vm_has_two_address_spaces_that_do_not_meet() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        assert_eq!(vm.set(page(0, 0)), Ok(()));
        assert_eq!(vm.set(page(1 << 16, 0)), Ok(()));
        assert_eq!(vm.set(page((1 << 16) + 1, 0)), EEXIST);
        assert_eq!(vm.set(page(2 << 16, PAGE)), EINVAL);
        assert_eq!(vm.set(page(0xffff << 16, PAGE)), EINVAL);

        assert_eq!(vm.address_spaces(), 2);

        let private = Guestless::new(private_vm(kernel));
        assert_eq!(private.address_spaces(), 1);
        assert_eq!(private.set(page(0, 0)), Ok(()));
        assert_eq!(private.set(page(1 << 16, PAGE)), EINVAL);
    }
}

#[test]
fn addresses_and_sizes_are_whole_pages() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        for part in [1, 8, 0x800, 0xfff] {
            let good = page(0, 0);
            assert_eq!(
                vm.set(Region {
                    guest_phys_addr: part,
                    ..good
                }),
                EINVAL
            );
            assert_eq!(
                vm.set(Region {
                    memory_size: part,
                    ..good
                }),
                EINVAL
            );
            assert_eq!(
                vm.set(Region {
                    memory_size: PAGE + part,
                    ..good
                }),
                EINVAL
            );
            assert_eq!(
                vm.set(Region {
                    userspace_addr: HOST + part,
                    ..good
                }),
                EINVAL
            );
            // Nobody looks at a file's offset without the flag for the file.
            let offset = Region {
                guest_memfd_offset: part,
                ..good
            };
            assert_eq!(vm.set(offset), Ok(()));
            assert_eq!(vm.delete(0), Ok(()));
        }
    }
}

#[test]
fn host_addresses_are_a_processs_own() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let at = |userspace_addr| Region {
            userspace_addr,
            ..page(0, 0)
        };
        for address in [
            USER_END,
            1 << 56,
            1 << 63,
            0xffff_8000_0000_0000,
            PAGE.wrapping_neg(),
        ] {
            assert_eq!(vm.set(at(address)), EINVAL, "{kernel}: {address:#x}");
        }
        // Also where only the end is beyond.
        let two = Region {
            memory_size: 2 * PAGE,
            ..at(USER_END - PAGE)
        };
        assert_eq!(vm.set(two), EINVAL);
        assert_eq!(vm.set(at(USER_END - PAGE)), Ok(()));
        assert_eq!(vm.delete(0), Ok(()));
        // The mapping is not checked.
        assert_eq!(vm.set(at(0)), Ok(()));
    }
}

#[test]
fn guest_addresses_do_not_wrap_and_do_not_even_reach_the_end() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let last = PAGE.wrapping_neg();
        assert_eq!(vm.set(page(0, last)), EINVAL);
        let two = Region {
            memory_size: 2 * PAGE,
            ..page(0, last)
        };
        assert_eq!(vm.set(two), EINVAL);
    }
}

#[test]
fn a_slot_has_fewer_than_two_to_the_31_pages() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let sized = |pages: u64| Region {
            memory_size: pages * PAGE,
            userspace_addr: 0x1000_0000_0000,
            ..page(0, 0)
        };
        assert_eq!(vm.set(sized(1 << 31)), EINVAL);
        assert_eq!(vm.set(sized((1 << 31) - 1)), Ok(()));
    }
}

#[test]
fn guest_addresses_end_where_the_physical_ones_do() {
    for kernel in NEWER {
        for physical_bits in [36, 46, 52] {
            let vm = Guestless::new(SimConfig {
                physical_bits,
                ..SimConfig::released(kernel)
            });
            let end = 1 << physical_bits;
            assert_eq!(vm.set(page(0, end)), EINVAL);
            let across = Region {
                memory_size: 2 * PAGE,
                ..page(0, end - PAGE)
            };
            assert_eq!(vm.set(across), EINVAL);
            assert_eq!(vm.set(page(0, end - PAGE)), Ok(()));
            // A move is checked as well, and where it fails nothing moves.
            assert_eq!(vm.set(page(1, 0)), Ok(()));
            assert_eq!(vm.set(page(1, end)), EINVAL);
            assert_eq!(vm.set(page(2, 0)), EEXIST);
        }
    }
}
