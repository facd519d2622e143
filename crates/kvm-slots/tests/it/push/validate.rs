// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated platform whose guest validates and releases mappings.

use crate::common;

use std::os::fd::{AsRawFd, OwnedFd};

use common::guest::NoExits;
use common::region::EINVAL;
use common::{PAGE, file};
use kvm_slots::exit::{GuestFault, MmioHandler};
use kvm_slots::push::{PushMap, PushedRange, Released, Response, ValidateExit};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Errno};
use proptest::prelude::*;

/// A number for the kind of exit. Drafts differ.
const KIND: u64 = 1234;

fn validating() -> (SimVm, OwnedFd) {
    let vm = SimVm::new(SimConfig {
        abi: AbiProfile::Push,
        push_validates: Some(KIND),
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let file = vm.create_dma_buf(4 * PAGE).unwrap();
    (vm, file)
}

/// Two pages of the file at this page.
fn at(page: u64, of: &OwnedFd) -> PushedRange {
    PushedRange {
        gpa: page * PAGE,
        size: 2 * PAGE,
        file: file(of.as_raw_fd(), 0),
    }
}

fn load(vm: &SimVm, gpa: u64) -> Result<(), GuestFault> {
    vm.guest_load(gpa, &mut [0; 4], &mut NoExits)
}

fn unvalidated(gpa: u64) -> Result<(), GuestFault> {
    Err(GuestFault::Unvalidated { gpa, size: PAGE })
}

/// Validates one page, by a VMM that answers so.
fn validate(vm: &SimVm, gpa: u64, answer: Response) -> Response {
    vm.guest_validates(1, gpa, gpa + PAGE, 8 * PAGE).unwrap();
    vm.answer_validation(answer).unwrap()
}

#[test]
fn a_guest_reaches_an_offered_page_after_it_validated_it() {
    let (vm, dma_buf) = validating();
    vm.map(&at(0, &dma_buf)).unwrap();
    assert_eq!(load(&vm, 8), unvalidated(0));
    let store = vm.guest_store(PAGE - 2, &[1; 4], &mut NoExits);
    assert_eq!(store, unvalidated(0));
    let exit = vm.guest_validates(7, PAGE, 2 * PAGE, 9 * PAGE).unwrap();
    let expected = ValidateExit {
        flags: 0,
        nr: KIND,
        vdev_id: 7,
        gpa_base: PAGE,
        gpa_top: 2 * PAGE,
        pa_base: 9 * PAGE,
    };
    assert_eq!(exit, expected);
    assert_eq!(load(&vm, PAGE), unvalidated(PAGE), "there is no answer yet");
    assert_eq!(vm.answer_validation(Response::Accept), Ok(Response::Accept));
    assert_eq!(load(&vm, PAGE), Ok(()));
    assert_eq!(load(&vm, 0), unvalidated(0));
    // An access of both pages needs both.
    assert_eq!(load(&vm, PAGE - 2), unvalidated(0));
}

#[test]
fn a_guest_sees_a_rejection_and_may_ask_again() {
    let (vm, dma_buf) = validating();
    vm.map(&at(0, &dma_buf)).unwrap();
    assert_eq!(validate(&vm, 0, Response::Reject), Response::Reject);
    assert_eq!(load(&vm, 0), unvalidated(0));
    assert_eq!(vm.unmap(&at(0, &dma_buf)), Ok(Released::Done));
    vm.map(&at(0, &dma_buf)).unwrap();
    assert_eq!(validate(&vm, 0, Response::Accept), Response::Accept);
    // A rejection of a page that the guest has leaves it the page.
    assert_eq!(validate(&vm, 0, Response::Reject), Response::Reject);
    assert_eq!(load(&vm, 0), Ok(()));
}

#[test]
fn the_platform_rejects_what_is_not_offered_even_if_the_vmm_accepts() {
    let (vm, dma_buf) = validating();
    assert_eq!(validate(&vm, 0, Response::Accept), Response::Reject);
    for range in [at(0, &dma_buf), at(2, &dma_buf)] {
        vm.map(&range).unwrap();
    }
    for (from, to) in [(1, 3), (3, 5), (0, 4), (4, 5)] {
        vm.guest_validates(1, from * PAGE, to * PAGE, 0).unwrap();
        let seen = vm.answer_validation(Response::Accept);
        assert_eq!(seen, Ok(Response::Reject), "{from} to {to}");
    }
    // The VMM takes the offer back between the exit and the answer.
    vm.guest_validates(1, 0, PAGE, 0).unwrap();
    assert_eq!(vm.unmap(&at(0, &dma_buf)), Ok(Released::Done));
    let seen = vm.answer_validation(Response::Accept);
    assert_eq!(seen, Ok(Response::Reject));
    vm.map(&at(0, &dma_buf)).unwrap();
    assert_eq!(load(&vm, 0), unvalidated(0));
}

#[test]
fn errors_of_the_guests_calls_have_an_order() {
    let end = 1 << 46;
    let bad = [
        (1, PAGE, 0),
        (0, PAGE + 1, 0),
        (0, PAGE, 1),
        (0, 0, 0),
        (PAGE, 0, 0),
        (0, end + PAGE, 0),
        (end, end + PAGE, 0),
        (0, PAGE.wrapping_neg(), 0),
    ];
    let (vm, _dma_buf) = validating();
    assert_eq!(vm.answer_validation(Response::Accept), Err(Errno::ENOENT));
    vm.guest_validates(1, end - PAGE, end, 0).unwrap();
    for (base, top, pa) in bad {
        let seen = vm.guest_validates(1, base, top, pa);
        assert_eq!(seen, Err(Errno::EINVAL), "{base:#x} {top:#x}");
        if pa == 0 {
            assert_eq!(vm.guest_releases(base, top), EINVAL);
        }
    }
    let second = vm.guest_validates(1, 0, PAGE, 0);
    assert_eq!(second, Err(Errno::EBUSY));
    assert_eq!(vm.answer_validation(Response::Reject), Ok(Response::Reject));
    assert_eq!(vm.answer_validation(Response::Reject), Err(Errno::ENOENT));

    let immediate = SimVm::new(SimConfig {
        push_validates: None,
        ..*vm.config()
    });
    let seen = immediate.guest_validates(1, 1, 0, 0);
    assert_eq!(seen, Err(Errno::ENOSYS));
    assert_eq!(immediate.guest_releases(1, 0), Err(Errno::ENOSYS));
    let dma_buf = immediate.create_dma_buf(4 * PAGE).unwrap();
    immediate.map(&at(0, &dma_buf)).unwrap();
    assert_eq!(load(&immediate, 0), Ok(()));
    assert_eq!(immediate.unmap(&at(0, &dma_buf)), Ok(Released::Done));
}

/// One act of the VMM or the guest. Ranges are of two pages and overlap.
#[derive(Clone, Copy, Debug)]
enum Act {
    Map(u64),
    Unmap(u64),
    Validate(u64),
    Release(u64),
}

const ACTS: [Act; 10] = [
    Act::Map(0),
    Act::Map(1),
    Act::Unmap(0),
    Act::Unmap(1),
    Act::Validate(0),
    Act::Validate(1),
    Act::Validate(2),
    Act::Release(0),
    Act::Release(1),
    Act::Release(2),
];

/// Counts the exits of accesses to nothing.
#[derive(Default)]
struct Exits(usize);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) {
        self.0 += 1;
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {
        self.0 += 1;
    }
}

/// The simulated platform beside a list of pages.
fn compare(acts: &[Act]) {
    let (vm, dma_buf) = validating();
    let mut offered: Option<u64> = None;
    let mut validated = [false; 3];
    let index = |page: u64| usize::try_from(page).expect("a few pages");
    for &act in acts {
        let has = |page: u64| offered.is_some_and(|first| (first..first + 2).contains(&page));
        let is_held = validated.contains(&true);
        match act {
            Act::Map(first) => {
                let expected = match offered {
                    None => Ok(()),
                    Some(_) => Err(Errno::EEXIST),
                };
                assert_eq!(vm.map(&at(first, &dma_buf)), expected, "{acts:?}");
                offered = offered.or(Some(first));
            }
            Act::Unmap(first) => {
                let expected = match offered {
                    Some(there) if there != first => Err(Errno::ENOENT),
                    None => Err(Errno::ENOENT),
                    Some(_) if is_held => Ok(Released::Pending),
                    Some(_) => Ok(Released::Done),
                };
                assert_eq!(vm.unmap(&at(first, &dma_buf)), expected, "{acts:?}");
                offered = offered.filter(|_| expected != Ok(Released::Done));
            }
            Act::Validate(page) => {
                let expected = match has(page) {
                    true => Response::Accept,
                    false => Response::Reject,
                };
                let seen = validate(&vm, page * PAGE, Response::Accept);
                assert_eq!(seen, expected, "{acts:?}");
                validated[index(page)] |= has(page);
            }
            Act::Release(page) => {
                vm.guest_releases(page * PAGE, (page + 1) * PAGE).unwrap();
                validated[index(page)] = false;
            }
        }
    }
    for (page, is_validated) in (0..).zip(validated) {
        let is_offered = offered.is_some_and(|first| (first..first + 2).contains(&page));
        let mut exits = Exits::default();
        let seen = vm.guest_load(page * PAGE, &mut [0; 4], &mut exits);
        let expected = match (is_offered, is_validated) {
            (true, false) => unvalidated(page * PAGE),
            _ => Ok(()),
        };
        assert_eq!(seen, expected, "{acts:?}: page {page}");
        assert_eq!(exits.0 > 0, !is_offered, "{acts:?}: page {page}");
        assert!(is_offered || !is_validated, "{acts:?}");
    }
}

#[test]
fn every_order_of_offers_requests_and_releases_follows_the_pages() {
    for number in 0..10_usize.pow(4) {
        let digits = [
            number / 1000,
            number / 100 % 10,
            number / 10 % 10,
            number % 10,
        ];
        compare(&digits.map(|digit| ACTS[digit]));
    }
}

proptest! {
    #[test]
    fn long_random_orders_follow_the_pages(
        acts in prop::collection::vec(prop::sample::select(&ACTS), 5..40),
    ) {
        compare(&acts);
    }

    #[test]
    fn hostile_values_never_reach_a_page_that_is_not_offered(
        values in prop::collection::vec(
            (any::<u64>(), prop_oneof![(0_u64..9).prop_map(|n| n * PAGE), any::<u64>()],
             prop_oneof![(0_u64..9).prop_map(|n| n * PAGE), any::<u64>()], any::<bool>()),
            1..20,
        ),
    ) {
        let (vm, dma_buf) = validating();
        vm.map(&at(4, &dma_buf)).unwrap();
        for (vdev_id, base, top, aligned) in values {
            let pa = if aligned { vdev_id & !(PAGE - 1) } else { vdev_id };
            if vm.guest_validates(vdev_id, base, top, pa).is_ok() {
                let inside = 4 * PAGE <= base && top <= 6 * PAGE;
                let seen = vm.answer_validation(Response::Accept).unwrap();
                prop_assert_eq!(seen == Response::Accept, inside);
            }
            let _ = vm.guest_releases(base, top);
        }
        prop_assert_eq!(vm.unmap(&at(4, &dma_buf)), Ok(Released::Done));
    }
}
