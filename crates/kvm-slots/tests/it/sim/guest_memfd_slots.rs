// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of the memslot ioctls, one by one: slots on a guest_memfd.

use crate::common;

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use common::region::{
    CLOSED, EBADF, EEXIST, EINVAL, Guestless, file_page, page, private_vm, wrong_files,
};
use common::{HOST, PAGE};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{Errno, GuestMemfdFlags};

type Region = kvm_userspace_memory_region2;

/// Every VM that can have a guest_memfd.
fn configs() -> Vec<SimConfig> {
    let plain = [KernelVersion::V6_18, KernelVersion::V7_3].map(SimConfig::released);
    let private = [
        KernelVersion::V6_12,
        KernelVersion::V6_18,
        KernelVersion::V7_3,
    ];
    plain.into_iter().chain(private.map(private_vm)).collect()
}

#[test]
fn a_plain_vm_on_6_12_has_no_guest_memfd() {
    // As distributions build it, there is not even the ioctl.
    let vm = Guestless::released(KernelVersion::V6_12);
    assert!(!vm.capabilities().guest_memfd);
    assert_eq!(vm.create(PAGE, 0).unwrap_err(), Errno::ENOTTY);
    let vm = Guestless::new(SimConfig {
        private_pages: true,
        ..SimConfig::released(KernelVersion::V6_12)
    });
    assert!(!vm.capabilities().guest_memfd);
    assert_eq!(vm.create(PAGE, 0).unwrap_err(), Errno::EINVAL);
    // Not even another VM's: the flag itself is unknown.
    let other = Guestless::new(private_vm(KernelVersion::V6_12));
    let file = other.file(1);
    assert_eq!(vm.set(file_page(0, 0, &file)), EINVAL);
    assert_eq!(
        vm.set(Region {
            guest_memfd: CLOSED,
            ..file_page(0, 0, &file)
        }),
        EINVAL
    );
}

#[test]
fn flags_are_accepted_if_and_only_if_they_are_advertised() {
    for config in configs() {
        let vm = Guestless::new(config);
        let offered = vm.capabilities().guest_memfd_flags.bits();
        for flags in (0..16).chain([1 << 31, 1 << 63]) {
            let made = vm.create(PAGE, flags).map(drop);
            let expected = if flags & !offered == 0 {
                Ok(())
            } else {
                EINVAL
            };
            assert_eq!(made, expected, "{config}: {flags:#x}");
        }
    }
}

#[test]
fn which_flags_are_advertised_depends_on_kernel_and_vm() {
    let offered = |config| Guestless::new(config).capabilities().guest_memfd_flags;
    let none = GuestMemfdFlags::empty();
    assert_eq!(offered(private_vm(KernelVersion::V6_12)), none);
    for kernel in [KernelVersion::V6_18, KernelVersion::V7_3] {
        assert_eq!(offered(SimConfig::released(kernel)), GuestMemfdFlags::all());
        assert_eq!(offered(private_vm(kernel)), GuestMemfdFlags::MMAP);
    }
}

#[test]
fn sizes_are_whole_pages_and_positive() {
    for config in configs() {
        let vm = Guestless::new(config);
        for size in [
            0,
            1,
            PAGE - 1,
            PAGE + 1,
            1 << 63,
            PAGE.wrapping_neg(),
            u64::MAX,
        ] {
            assert_eq!(vm.create(size, 0).unwrap_err(), Errno::EINVAL, "{size:#x}");
        }
        assert!(vm.create(1 << 40, 0).is_ok());
    }
}

#[test]
fn every_guest_memfd_is_a_file_of_its_own() {
    let vm = Guestless::released(KernelVersion::V7_3);
    let inode = |file| File::from(file).metadata().unwrap().ino();
    let (one, two) = (vm.file(1), vm.file(1));
    assert_ne!(inode(one), inode(two));
}

#[test]
fn a_slot_may_have_a_host_address_beside_the_file_or_none() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(4);
        assert_eq!(vm.set(file_page(0, 0, &file)), Ok(()));
        let without = Region {
            userspace_addr: 0,
            guest_memfd_offset: PAGE,
            ..file_page(1, PAGE, &file)
        };
        assert_eq!(vm.set(without), Ok(()));
        // But it is checked as any other.
        let next = Region {
            guest_memfd_offset: 2 * PAGE,
            ..file_page(2, 2 * PAGE, &file)
        };
        assert_eq!(
            vm.set(Region {
                userspace_addr: HOST + 1,
                ..next
            }),
            EINVAL
        );
        assert_eq!(
            vm.set(Region {
                userspace_addr: 1 << 63,
                ..next
            }),
            EINVAL
        );
        assert_eq!(vm.set(next), Ok(()));
    }
}

#[test]
fn neither_logging_nor_read_only_goes_with_it() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(1);
        for other in [KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3, 1 << 4] {
            let flags = KVM_MEM_GUEST_MEMFD | other;
            let region = Region {
                flags,
                ..file_page(0, 0, &file)
            };
            assert_eq!(vm.set(region), EINVAL, "{config}: {flags:#x}");
            assert_eq!(vm.set_v1(region), EINVAL);
        }
        // The older ioctl cannot name a file at all.
        assert_eq!(vm.set_v1(file_page(0, 0, &file)), EINVAL);
    }
}

#[test]
fn a_number_that_is_no_descriptor_is_ebadf_and_any_other_file_is_einval() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(1);
        for fd in [CLOSED, u32::MAX, 1 << 31] {
            let region = Region {
                guest_memfd: fd,
                ..file_page(0, 0, &file)
            };
            assert_eq!(vm.set(region), EBADF, "{config}: {fd}");
        }
        for wrong in wrong_files() {
            assert_eq!(
                vm.set(file_page(0, 0, &wrong)),
                EINVAL,
                "{config}: {wrong:?}"
            );
        }
        // Another descriptor of the same file will do.
        let again = file.try_clone().unwrap();
        assert_eq!(vm.set(file_page(0, 0, &again)), Ok(()));
    }
}

#[test]
fn another_vms_file_is_invalid() {
    for config in configs() {
        let (one, two) = (Guestless::new(config), Guestless::new(config));
        let file = one.file(1);
        assert_eq!(two.set(file_page(0, 0, &file)), EINVAL);
        assert_eq!(one.set(file_page(0, 0, &file)), Ok(()));
    }
}

#[test]
fn a_slice_is_whole_pages_inside_the_file() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(4);
        let slice = |offset, size| Region {
            guest_memfd_offset: offset,
            memory_size: size,
            ..file_page(0, 0, &file)
        };
        for offset in [1, 0x800, PAGE - 1, PAGE + 8] {
            assert_eq!(vm.set(slice(offset, PAGE)), EINVAL);
        }
        for (offset, size) in [
            (0, 5 * PAGE),
            (PAGE, 4 * PAGE),
            (4 * PAGE, PAGE),
            ((1 << 63) - 2 * PAGE, PAGE),
            (1 << 63, PAGE),
            (PAGE.wrapping_neg(), PAGE),
            (PAGE.wrapping_neg(), 2 * PAGE),
        ] {
            assert_eq!(
                vm.set(slice(offset, size)),
                EINVAL,
                "{offset:#x} + {size:#x}"
            );
        }
        assert_eq!(vm.set(slice(3 * PAGE, PAGE)), Ok(()));
    }
}

#[test]
fn up_to_6_18_a_slice_whose_end_wraps_as_a_signed_number_passes() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(4);
        let slice = Region {
            guest_memfd_offset: (1 << 63) - PAGE,
            ..file_page(0, 0, &file)
        };
        let expected = match config.kernel {
            KernelVersion::V7_3 => EINVAL,
            _ => Ok(()),
        };
        assert_eq!(vm.set(slice), expected, "{config}");
    }
}

#[test]
fn a_slot_on_a_file_is_immutable_even_where_nothing_would_change() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(2);
        let slot = file_page(0, 0, &file);
        assert_eq!(vm.set(slot), Ok(()));
        for again in [
            slot,
            Region {
                guest_phys_addr: PAGE,
                ..slot
            },
            Region {
                guest_memfd_offset: PAGE,
                ..slot
            },
            Region {
                memory_size: 2 * PAGE,
                ..slot
            },
            Region {
                guest_memfd: CLOSED,
                ..slot
            },
            // Nor can it lose the file.
            page(0, 0),
            Region {
                flags: KVM_MEM_LOG_DIRTY_PAGES,
                ..page(0, 0)
            },
        ] {
            assert_eq!(vm.set(again), EINVAL, "{config}: {again:?}");
        }
        // Only a deletion works, and sets the file free.
        assert_eq!(vm.delete(0), Ok(()));
        assert_eq!(
            vm.set(Region {
                guest_phys_addr: PAGE,
                ..slot
            }),
            Ok(())
        );
    }
}

#[test]
fn no_page_of_a_file_is_in_two_slots() {
    for config in configs() {
        let vm = Guestless::new(config);
        let file = vm.file(4);
        let refused = match config.kernel {
            KernelVersion::V7_3 => EEXIST,
            _ => EINVAL,
        };
        let slice = |slot, offset, pages: u64| Region {
            guest_memfd_offset: offset * PAGE,
            memory_size: pages * PAGE,
            ..file_page(slot, u64::from(slot) * 0x1_0000, &file)
        };
        assert_eq!(vm.set(slice(0, 1, 2)), Ok(()));
        for (offset, pages) in [(1, 2), (0, 2), (2, 2), (0, 4), (1, 1), (2, 1)] {
            assert_eq!(vm.set(slice(1, offset, pages)), refused, "{config}");
        }
        assert_eq!(vm.set(slice(1, 0, 1)), Ok(()));
        assert_eq!(vm.set(slice(2, 3, 1)), Ok(()));
        // The place is looked at first.
        let both = Region {
            guest_phys_addr: 0x1_0000,
            ..slice(3, 1, 1)
        };
        assert_eq!(vm.set(both), EEXIST);
    }
}
