// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Probes of kernels with an ABI, without it, with another one, and with one
//! that only looks like it.

use crate::common;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use common::contested::{Contested, Quirk};
use common::region::{page, private_vm, wrong_files};
use common::{ABI, PAGE};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region2};
use kvm_slots::probe::{ProbeCheck, ProbeError, Probed, probe_abi};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, Capabilities, Errno, GuestMemfdFlags, SlotId, SlotRules, SlotTable, Slots,
    Unsupported, Vm,
};

const RFC: AbiProfile = AbiProfile::RFC_DMA_BUF_BIT_3;
const BIT_3: AbiProfile = AbiProfile::FdOffset { flag: 1 << 3 };
const VERSIONS: [KernelVersion; 4] = [
    KernelVersion::V6_1,
    KernelVersion::V6_12,
    KernelVersion::V6_18,
    KernelVersion::V7_3,
];

/// A VM with private memory whose kernel has this ABI.
fn kernel(abi: AbiProfile) -> SimVm {
    SimVm::new(SimConfig {
        abi,
        ..private_vm(KernelVersion::V7_3)
    })
}

fn dma_buf(vm: &SimVm, pages: u64) -> OwnedFd {
    vm.create_dma_buf(pages * PAGE).unwrap()
}

fn probe(vm: &impl Vm, abi: AbiProfile, file: Option<&OwnedFd>) -> Result<Probed, ProbeError> {
    let file = file.map(|file| file.as_fd());
    // SAFETY: no vCPU ever runs on a VM of these tests, and it has no slots.
    unsafe { probe_abi(vm, &SlotTable::new(), abi, 0, file) }
}

#[test]
fn a_probe_finds_the_abi_with_a_file_and_without_one() {
    for abi in [ABI, BIT_3, RFC, AbiProfile::Push] {
        let vm = kernel(abi);
        for pages in [1, 2, 5] {
            let file = dma_buf(&vm, pages);
            assert_eq!(probe(&vm, abi, Some(&file)), Ok(Probed::Made), "{abi}");
        }
        assert_eq!(probe(&vm, abi, None), Ok(Probed::Refusals), "{abi}");
        assert_eq!(vm.memslots(), []);
    }
}

#[test]
fn no_released_kernel_has_any() {
    for version in VERSIONS {
        for config in [SimConfig::released(version), private_vm(version)] {
            let vm = SimVm::new(config);
            let file = dma_buf(&vm, 2);
            for file in [Some(&file), None] {
                for abi in [ABI, BIT_3, RFC] {
                    let flag = abi.flag().unwrap();
                    let why = match version {
                        KernelVersion::V6_1 => ProbeError::Plain(Errno::ENOTTY),
                        _ => ProbeError::UnknownFlag { flag },
                    };
                    assert_eq!(probe(&vm, abi, file), Err(why), "{version}: {abi}");
                }
                let why = Unsupported::NoPushMap.into();
                assert_eq!(probe(&vm, AbiProfile::Push, file), Err(why));
                let why = Unsupported::NoHostAddress.into();
                assert_eq!(probe(&vm, AbiProfile::None, file), Err(why));
                assert_eq!(vm.memslots(), []);
            }
        }
    }
}

#[test]
fn the_rfcs_abi_is_there_only_for_a_vm_with_private_memory() {
    let plain = SimVm::new(SimConfig {
        abi: RFC,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let file = dma_buf(&plain, 1);
    let why = ProbeError::UnknownFlag { flag: 1 << 3 };
    assert_eq!(probe(&plain, RFC, Some(&file)), Err(why));
}

#[test]
fn another_abi_at_the_same_bit_is_another_meaning() {
    for (has, asked) in [(RFC, BIT_3), (BIT_3, RFC)] {
        let vm = kernel(has);
        for pages in [1, 2] {
            let file = dma_buf(&vm, pages);
            for file in [Some(&file), None] {
                let why = ProbeError::OtherMeaning { flag: 1 << 3 };
                assert_eq!(probe(&vm, asked, file), Err(why), "{has}");
            }
        }
        assert_eq!(vm.memslots(), []);
    }
}

#[test]
fn the_contested_meanings_of_bit_3_are_distinguished() {
    for quirk in [Quirk::Attribute, Quirk::Bitmap, Quirk::DropsUnknown] {
        for abi in [BIT_3, RFC] {
            let released = SimVm::new(private_vm(KernelVersion::V7_3));
            let vm = Contested::new(released, 1 << 3, quirk);
            let file = dma_buf(&vm.vm, 2);
            for file in [Some(&file), None] {
                let why = ProbeError::OtherMeaning { flag: 1 << 3 };
                assert_eq!(probe(&vm, abi, file), Err(why), "{quirk:?}: {abi}");
                assert_eq!(vm.vm.memslots(), []);
            }
        }
    }
}

#[test]
fn an_abi_with_a_mistake_is_not_the_abi() {
    let success = Ok(());
    let invalid = Err(Errno::EINVAL);
    let differs = |check, expected, seen| ProbeError::Differs {
        check,
        expected,
        seen,
    };
    let accepted = |check| differs(check, invalid, success);
    for (quirk, why) in [
        (
            Quirk::IgnoresFile,
            ProbeError::OtherMeaning { flag: 1 << 4 },
        ),
        (Quirk::TakesAnyFile, accepted(ProbeCheck::WrongKind)),
        (Quirk::TakesAnyOffset, accepted(ProbeCheck::WrongBytes)),
        (
            Quirk::WholeOnly,
            differs(ProbeCheck::Slice, success, invalid),
        ),
        (Quirk::Mutable, accepted(ProbeCheck::CreateAgain)),
        (
            Quirk::DropsOthers,
            accepted(ProbeCheck::FlagBeside(KVM_MEM_LOG_DIRTY_PAGES)),
        ),
        (Quirk::DropsAddress, accepted(ProbeCheck::HostAddress)),
        (Quirk::DeletesNothing, accepted(ProbeCheck::DeleteAgain)),
    ] {
        let vm = Contested::new(kernel(ABI), 1 << 4, quirk);
        let file = dma_buf(&vm.vm, 2);
        assert_eq!(probe(&vm, ABI, Some(&file)), Err(why), "{quirk:?}");
        assert_eq!(vm.vm.memslots(), [], "{quirk:?}");
    }
}

#[test]
fn a_push_map_that_takes_too_much_is_none() {
    for (quirk, check) in [
        (Quirk::PushesAnything, ProbeCheck::BadDescriptor),
        (Quirk::PushesTwice, ProbeCheck::SamePlace),
    ] {
        let vm = Contested::new(kernel(AbiProfile::Push), 0, quirk);
        let file = dma_buf(&vm.vm, 2);
        let why = ProbeError::Differs {
            check,
            expected: Err(Errno::EINVAL),
            seen: Ok(()),
        };
        let result = probe(&vm, AbiProfile::Push, Some(&file));
        assert_eq!(result, Err(why), "{quirk:?}");
        assert_eq!(vm.vm.memslots(), []);
    }
}

#[test]
fn a_push_map_is_found_whether_or_not_the_guest_validates() {
    for push_validates in [None, Some(7)] {
        let vm = SimVm::new(SimConfig {
            push_validates,
            ..*kernel(AbiProfile::Push).config()
        });
        let file = dma_buf(&vm, 2);
        let found = probe(&vm, AbiProfile::Push, Some(&file));
        assert_eq!(found, Ok(Probed::Made), "{push_validates:?}");
        assert_eq!(vm.memslots(), []);
    }
}

#[test]
fn a_push_map_that_never_releases_leaves_a_range_behind() {
    let vm = Contested::new(kernel(AbiProfile::Push), 0, Quirk::NeverReleases);
    let file = dma_buf(&vm.vm, 2);
    let why = ProbeError::LeftBehind {
        slot: 0,
        errno: Errno::EBUSY,
    };
    assert_eq!(probe(&vm, AbiProfile::Push, Some(&file)), Err(why));
    assert_eq!(vm.vm.memslots().len(), 1);
}

#[test]
fn a_slot_that_cannot_be_deleted_is_reported() {
    let vm = Contested::new(kernel(ABI), 1 << 4, Quirk::Sticky);
    let file = dma_buf(&vm.vm, 1);
    let why = probe(&vm, ABI, Some(&file)).unwrap_err();
    let ProbeError::LeftBehind { slot, errno } = why else {
        panic!("{why}");
    };
    assert_eq!(errno, Errno::EBUSY);
    assert_eq!(vm.vm.memslots()[0].id, Some(slot));
}

#[test]
fn a_file_of_the_wrong_kind_makes_no_slot() {
    let vm = kernel(ABI);
    for file in wrong_files() {
        let why = probe(&vm, ABI, Some(&file)).unwrap_err();
        let refused = matches!(
            why,
            // Those without a size are not even tried.
            ProbeError::File(Errno::EINVAL)
                | ProbeError::Differs {
                    check: ProbeCheck::Create,
                    seen: Err(Errno::EINVAL),
                    ..
                }
        );
        assert!(refused, "{file:?}: {why}");
    }
    let guest_memfd = vm
        .create_guest_memfd(PAGE, GuestMemfdFlags::empty())
        .unwrap();
    for abi in [ABI, RFC] {
        let vm = kernel(abi);
        let why = probe(&vm, abi, Some(&guest_memfd)).unwrap_err();
        let expected = ProbeError::Differs {
            check: ProbeCheck::Create,
            expected: Ok(()),
            seen: Err(Errno::EINVAL),
        };
        assert_eq!(why, expected);
    }
}

#[test]
fn slots_that_are_there_stay_and_are_not_probed_over() {
    let vm = kernel(ABI);
    let file = Arc::new(dma_buf(&vm, 2));
    let ranges = [common::ram(0, PAGE, common::HOST)];
    // SAFETY: no vCPU runs.
    let mut slots = unsafe { Slots::new(vm.clone(), ABI) };
    let plan = slots.plan(&ranges).unwrap();
    slots.apply(&plan).unwrap();
    let table = slots.table();
    let before = vm.memslots();
    // SAFETY: no vCPU runs, here and below; the table is the VM's.
    let over = unsafe { probe_abi(&vm, table, ABI, 0, Some(file.as_fd())) };
    assert!(matches!(over, Err(ProbeError::NoRoom { .. })), "{over:?}");
    // SAFETY: as above.
    let beside = unsafe { probe_abi(&vm, table, ABI, PAGE, Some(file.as_fd())) };
    assert_eq!(beside, Ok(Probed::Made));
    assert_eq!(vm.memslots(), before);

    for gpa in [1, u64::MAX - PAGE + 1, u64::MAX] {
        // SAFETY: as above.
        let result = unsafe { probe_abi(&vm, table, ABI, gpa, None) };
        assert!(matches!(result, Err(ProbeError::NoRoom { .. })), "{gpa:#x}");
    }
    // Beyond the guest's addresses, KVM refuses even a plain slot.
    // SAFETY: as above.
    let beyond = unsafe { probe_abi(&vm, table, ABI, 1 << 50, None) };
    assert_eq!(beyond, Err(ProbeError::Plain(Errno::EINVAL)));
}

/// A kernel with a slot that the VMM made itself, at the address 1 MiB.
fn with_slot_of_the_vmm(abi: AbiProfile, id: SlotId) -> SimVm {
    let vm = kernel(abi);
    // SAFETY: no vCPU runs.
    unsafe { vm.set_user_memory_region2(&page(id.into(), 0x10_0000)) }.unwrap();
    vm
}

/// The highest slot number.
fn highest_id() -> SlotId {
    let limit = Capabilities::probe(&kernel(ABI)).nr_memslots;
    SlotId::try_from(limit - 1).unwrap()
}

#[test]
fn a_slot_with_a_reserved_number_stays_and_is_not_probed_with() {
    let highest = highest_id();
    for id in [highest, highest - 1] {
        for abi in [ABI, BIT_3, RFC] {
            let vm = with_slot_of_the_vmm(abi, id);
            let table = SlotTable::with_rules(SlotRules::new().reserving(id..=id));
            let before = vm.memslots();
            let file = dma_buf(&vm, 2);
            for (file, found) in [(Some(file.as_fd()), Probed::Made), (None, Probed::Refusals)] {
                // SAFETY: no vCPU runs; the table has the VM's slots, except for the
                // one with a reserved number.
                let seen = unsafe { probe_abi(&vm, &table, abi, 0, file) };
                assert_eq!(seen, Ok(found), "{abi}, slot {id}");
                assert_eq!(vm.memslots(), before);
            }
        }
    }
}

#[test]
fn no_probe_uses_a_reserved_number_even_if_no_other_is_free() {
    let vm = kernel(ABI);
    for (first, room) in [(2, true), (1, false), (0, false)] {
        let reserved = SlotRules::new().reserving(first..=SlotId::MAX);
        let table = SlotTable::with_rules(reserved);
        // SAFETY: no vCPU runs, and there are no slots.
        let seen = unsafe { probe_abi(&vm, &table, ABI, 0, None) };
        let no_room = ProbeError::NoRoom {
            gpa: 0,
            size: 2 * PAGE,
        };
        let expected = match room {
            true => Ok(Probed::Refusals),
            false => Err(no_room),
        };
        assert_eq!(seen, expected, "{first}");
    }
}

#[test]
fn a_probe_deletes_no_slot_that_it_has_not_created() {
    // The table does not reserve the number.
    let vm = with_slot_of_the_vmm(ABI, highest_id() - 1);
    let before = vm.memslots();
    assert_eq!(probe(&vm, ABI, None), Ok(Probed::Refusals));
    assert_eq!(vm.memslots(), before);
    let file = dma_buf(&vm, 2);
    assert!(probe(&vm, ABI, Some(&file)).is_err());
    assert_eq!(vm.memslots(), before);
}

#[test]
fn a_flag_that_kvm_has_given_a_meaning_is_never_tried() {
    let vm = kernel(ABI);
    for flag in [0, 1, 2, 4, 0x18, 1 << 16, 1 << 31] {
        for abi in [
            AbiProfile::FdOffset { flag },
            AbiProfile::RfcDmaBuf { flag },
        ] {
            let why = ProbeError::Profile(Unsupported::BadFlag { flag });
            assert_eq!(probe(&vm, abi, None), Err(why));
        }
    }
}

/// The simulated foreign kernels accept the slots that they should accept.
#[test]
fn the_contested_kernels_take_plain_slots_with_the_bit() {
    for quirk in [Quirk::Attribute, Quirk::Bitmap, Quirk::DropsUnknown] {
        let released = SimVm::new(SimConfig::released(KernelVersion::V6_18));
        let vm = Contested::new(released, 1 << 3, quirk);
        let region = kvm_userspace_memory_region2 {
            flags: 1 << 3,
            memory_size: PAGE,
            ..Default::default()
        };
        // SAFETY: no vCPU runs.
        assert_eq!(unsafe { vm.set_user_memory_region2(&region) }, Ok(()));
    }
}
