// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memslot ioctls on an existing slot, and the order of their checks.

use crate::common;

use common::region::{ALL, CLOSED, EBADF, EEXIST, EINVAL, Guestless, NEWER, file_page, page};
use common::{HOST, PAGE};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::sim::KernelVersion;

type Region = kvm_userspace_memory_region2;

const LOG: u32 = KVM_MEM_LOG_DIRTY_PAGES;
const READONLY: u32 = KVM_MEM_READONLY;

#[test]
fn only_a_slot_that_is_there_can_be_deleted() {
    for kernel in ALL {
        let vm = Guestless::released(kernel);
        let deletion = Region {
            memory_size: 0,
            ..page(3, 0)
        };
        assert_eq!(vm.set_v1(deletion), EINVAL);
        assert_eq!(vm.set_v1(page(3, 0)), Ok(()));
        assert_eq!(vm.set_v1(deletion), Ok(()));
        assert_eq!(vm.set_v1(deletion), EINVAL);
    }
}

#[test]
fn a_deletion_ignores_all_but_the_number_if_it_is_well_formed() {
    for kernel in NEWER {
        let deletion = Region {
            memory_size: 0,
            ..page(0, 0x7000)
        };
        let mut ignored = vec![
            deletion,
            Region {
                userspace_addr: 0,
                ..deletion
            },
            Region {
                flags: LOG,
                ..deletion
            },
            Region {
                flags: READONLY,
                ..deletion
            },
        ];
        let on_file = Region {
            flags: KVM_MEM_GUEST_MEMFD,
            guest_memfd: CLOSED,
            ..deletion
        };
        // The flag is only known where there is a guest_memfd.
        let known = kernel >= KernelVersion::V6_18;
        ignored.extend(known.then_some(on_file));
        for region in ignored {
            let vm = Guestless::released(kernel);
            assert_eq!(vm.set(page(0, 0)), Ok(()));
            assert_eq!(vm.set(region), Ok(()), "{kernel}: {region:?}");
            assert_eq!(vm.delete(0), EINVAL);
        }

        let vm = Guestless::released(kernel);
        assert_eq!(vm.set(page(0, 0)), Ok(()));
        for malformed in [
            Region {
                guest_phys_addr: 1,
                ..deletion
            },
            Region {
                userspace_addr: 1,
                ..deletion
            },
            Region {
                userspace_addr: 1 << 63,
                ..deletion
            },
            Region {
                flags: 1 << 31,
                ..deletion
            },
        ] {
            assert_eq!(vm.set(malformed), EINVAL, "{kernel}: {malformed:?}");
        }
        assert_eq!(vm.delete(0), Ok(()));
    }
}

#[test]
fn a_slot_keeps_its_size_its_host_memory_and_its_access() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let two = Region {
            memory_size: 2 * PAGE,
            ..page(0, 0)
        };
        assert_eq!(vm.set(two), Ok(()));
        for other in [
            Region {
                memory_size: PAGE,
                ..two
            },
            Region {
                memory_size: 3 * PAGE,
                ..two
            },
            Region {
                userspace_addr: HOST + PAGE,
                ..two
            },
            Region {
                flags: READONLY,
                ..two
            },
            Region {
                flags: KVM_MEM_GUEST_MEMFD,
                ..two
            },
        ] {
            assert_eq!(vm.set(other), EINVAL, "{kernel}: {other:?}");
        }
        let readonly = Region {
            flags: READONLY,
            ..page(1, 0x8000)
        };
        assert_eq!(vm.set(readonly), Ok(()));
        assert_eq!(
            vm.set(Region {
                flags: 0,
                ..readonly
            }),
            EINVAL
        );
    }
}

#[test]
fn a_slot_moves_and_toggles_its_log_and_is_left_alone_if_nothing_changes() {
    for kernel in ALL {
        let vm = Guestless::released(kernel);
        let two = Region {
            memory_size: 2 * PAGE,
            ..page(0, 0)
        };
        let moved = Region {
            guest_phys_addr: PAGE,
            ..two
        };
        let logged = Region {
            flags: LOG,
            ..moved
        };
        // Also onto its own old place, and both changes at once.
        for region in [two, two, moved, logged, logged, two] {
            assert_eq!(vm.set_v1(region), Ok(()), "{kernel}: {region:?}");
        }
        // It is where it went last.
        assert_eq!(vm.set_v1(page(1, PAGE)), EEXIST);
        assert_eq!(vm.set_v1(page(1, 2 * PAGE)), Ok(()));
    }
}

#[test]
fn no_slot_is_made_or_moved_onto_another() {
    for kernel in ALL {
        let vm = Guestless::released(kernel);
        let two = |slot, gpa| Region {
            memory_size: 2 * PAGE,
            ..page(slot, gpa)
        };
        assert_eq!(vm.set_v1(two(0, 0x2000)), Ok(()));
        for gpa in [0x1000, 0x2000, 0x3000] {
            assert_eq!(vm.set_v1(two(1, gpa)), EEXIST);
        }
        for gpa in [0x0000, 0x4000] {
            assert_eq!(vm.set_v1(two(1, gpa)), Ok(()));
        }
        assert_eq!(vm.set_v1(two(1, 0x3000)), EEXIST);
        // It stayed.
        assert_eq!(vm.set_v1(page(2, 0x5000)), EEXIST);
    }
}

#[test]
fn padding_is_not_looked_at() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        let mut garbage = page(0, 0);
        garbage.pad1 = CLOSED;
        garbage.pad2.fill(u64::MAX);
        assert_eq!(vm.set(garbage), Ok(()));
        // Other garbage is no change.
        assert_eq!(vm.set(page(0, 0)), Ok(()));
    }
}

#[test]
fn checks_come_in_the_kernels_order() {
    for kernel in [KernelVersion::V6_18, KernelVersion::V7_3] {
        let vm = Guestless::released(kernel);
        let file = vm.file(1);
        let far = 1 << 46;
        assert_eq!(vm.set(page(0, 0)), Ok(()));

        let bad_fd = |slot, gpa| Region {
            guest_memfd: CLOSED,
            ..file_page(slot, gpa, &file)
        };
        // Flags, then numbers, then the place, then the file, then the width.
        assert_eq!(
            vm.set(Region {
                flags: 1 << 31,
                ..bad_fd(1, 0)
            }),
            EINVAL
        );
        assert_eq!(
            vm.set(Region {
                memory_size: 1,
                ..bad_fd(1, 0)
            }),
            EINVAL
        );
        assert_eq!(vm.set(bad_fd(1, 0)), EEXIST);
        assert_eq!(vm.set(bad_fd(1, PAGE)), EBADF);
        assert_eq!(vm.set(bad_fd(1, far)), EBADF);
        assert_eq!(vm.set(file_page(1, far, &file)), EINVAL);
        // Invalid changes are checked before the address.
        assert_eq!(vm.set(page(1, PAGE)), Ok(()));
        assert_eq!(
            vm.set(Region {
                memory_size: 2 * PAGE,
                ..page(1, 0)
            }),
            EINVAL
        );
        assert_eq!(vm.set(bad_fd(1, 0)), EINVAL);
        // None of these bound the file.
        assert_eq!(vm.set(file_page(2, 2 * PAGE, &file)), Ok(()));
    }
}
