// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `Slots` on a platform that acknowledges the release of a mapping.

use crate::common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use common::guest::NoExits;
use common::{PAGE, device, range};
use kvm_slots::exit::GuestFault;
use kvm_slots::push::{Offer, Offers, PushedRange, Rejected, Response, ValidateRequest};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, DeviceFile, FileSlice, Op, SlotBacking, SlotRange, Slots, StepError, Vm,
};

const KIND: u64 = 77;

fn machine() -> (Slots<SimVm>, SimVm, [OwnedFd; 2]) {
    let vm = SimVm::new(SimConfig {
        abi: AbiProfile::Push,
        push_validates: Some(KIND),
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let files = [(); 2].map(|()| vm.create_dma_buf(PAGE).unwrap());
    // SAFETY: there is no host address in the ranges.
    let slots = unsafe { Slots::new(vm.clone(), AbiProfile::Push) };
    (slots, vm, files)
}

/// A page of a file at this page.
fn at(page: u64, file: &OwnedFd) -> SlotRange {
    device(page * PAGE, PAGE, file.as_raw_fd(), 0)
}

fn apply(slots: &mut Slots<SimVm>, ranges: &[SlotRange]) -> Result<(), StepError> {
    let plan = slots.plan(ranges).unwrap();
    match slots.apply(&plan) {
        Ok(_applied) => Ok(()),
        Err(error) => {
            assert_eq!(error.not_undone, []);
            Err(error.why)
        }
    }
}

fn validate(vm: &SimVm, page: u64) -> Response {
    let (base, top) = (page * PAGE, (page + 1) * PAGE);
    vm.guest_validates(1, base, top, 0).unwrap();
    vm.answer_validation(Response::Accept).unwrap()
}

fn release(vm: &SimVm, page: u64) {
    vm.guest_releases(page * PAGE, (page + 1) * PAGE).unwrap();
}

fn store(vm: &SimVm, page: u64, byte: u8) -> Result<(), GuestFault> {
    vm.guest_store(page * PAGE, &[byte], &mut NoExits)
}

fn byte(file: &OwnedFd) -> u8 {
    let mut byte = [0];
    let file = std::fs::File::from(file.try_clone().unwrap());
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn addresses_are_not_reused_before_their_release_is_acknowledged() {
    let (mut slots, vm, [old, new]) = machine();
    apply(&mut slots, &[at(4, &old)]).unwrap();
    assert_eq!(validate(&vm, 4), Response::Accept);
    let (table, mapped) = (slots.table().clone(), vm.memslots());
    let id = table.find(4 * PAGE).unwrap().id();
    for number in 1..4 {
        let why = Err(StepError::ReleasePending(id));
        assert_eq!(apply(&mut slots, &[at(4, &new)]), why);
        assert_eq!(apply(&mut slots, &[]), why);
        assert_eq!((slots.table(), vm.memslots()), (&table, mapped.clone()));
        // The guest still has the old device there, and only that.
        assert_eq!(store(&vm, 4, number), Ok(()));
        assert_eq!((byte(&old), byte(&new)), (number, 0));
    }
    release(&vm, 4);
    assert_eq!(slots.table(), &table, "the table follows operations only");
    assert_eq!(apply(&mut slots, &[at(4, &new)]), Ok(()));
    let (gpa, size) = (4 * PAGE, PAGE);
    assert_eq!(store(&vm, 4, 9), Err(GuestFault::Unvalidated { gpa, size }));
    assert_eq!(validate(&vm, 4), Response::Accept);
    assert_eq!(store(&vm, 4, 9), Ok(()));
    assert_eq!((byte(&old), byte(&new)), (3, 9));
}

#[test]
fn a_plan_with_one_pending_release_changes_nothing_at_all() {
    for held in [4, 8] {
        let (mut slots, vm, [one, two]) = machine();
        let before = [at(4, &one), at(8, &two)];
        apply(&mut slots, &before).unwrap();
        assert_eq!(validate(&vm, held), Response::Accept);
        let (table, mapped) = (slots.table().clone(), vm.memslots());
        let id = table.find(held * PAGE).unwrap().id();
        // Both move, and swap.
        for after in [[at(5, &one), at(9, &two)], [at(8, &one), at(4, &two)]] {
            let why = Err(StepError::ReleasePending(id));
            assert_eq!(apply(&mut slots, &after), why);
            assert_eq!((slots.table(), vm.memslots()), (&table, mapped.clone()));
            assert_eq!(store(&vm, held, 1), Ok(()));
        }
        release(&vm, held);
        assert_eq!(apply(&mut slots, &[at(8, &one), at(4, &two)]), Ok(()));
    }
}

#[test]
fn a_rollback_reports_a_range_that_the_guest_holds() {
    let (mut slots, vm, [file, _]) = machine();
    let plan = slots.plan(&[at(4, &file)]).unwrap();
    let applied = slots.apply(&plan).unwrap();
    assert_eq!(validate(&vm, 4), Response::Accept);
    let not_undone = slots.undo(applied);
    let [step] = &not_undone[..] else {
        panic!("{not_undone:?}");
    };
    let Op::Delete(slot) = &step.op else {
        panic!("{step}");
    };
    assert_eq!(step.why, StepError::ReleasePending(slot.id()));
    assert_eq!(slots.table().find(4 * PAGE), Some(slot));
    assert_eq!(store(&vm, 4, 1), Ok(()));
}

#[test]
fn a_file_that_the_guest_holds_is_not_closed() {
    for is_released in [true, false] {
        let (mut slots, vm, [file, _]) = machine();
        let file = Arc::new(file);
        let slice = FileSlice::new(file.clone(), 0, PAGE).unwrap();
        let backing = SlotBacking::FdOffset(DeviceFile::new(slice));
        apply(&mut slots, &[range(4 * PAGE, PAGE, backing)]).unwrap();
        assert_eq!(validate(&vm, 4), Response::Accept);
        if is_released {
            release(&vm, 4);
        }
        drop(slots);
        let holders = Arc::strong_count(&file) - 1;
        assert_eq!(holders == 0, is_released);
        assert_eq!(vm.memslots().is_empty(), is_released);
    }
}

/// The VMM's part: answers the exit of a request for one page.
fn answer(vm: &SimVm, offers: &mut Offers, vdev: u64, page: u64) -> Result<Response, Rejected> {
    let (base, top) = (page * PAGE, (page + 1) * PAGE);
    let exit = vm.guest_validates(vdev, base, top, 32 * PAGE).unwrap();
    let request = ValidateRequest::from_exit(&exit, KIND, vm.page_size()).unwrap();
    let decided = offers.accept(&request);
    let response = match decided {
        Ok(()) => Response::Accept,
        Err(_) => Response::Reject,
    };
    let seen = vm.answer_validation(response).unwrap();
    assert_eq!(seen, response);
    decided.map(|()| seen)
}

#[test]
fn a_withdrawn_offer_lets_a_release_complete_against_a_guest_that_asks_again() {
    let (mut slots, vm, [file, _]) = machine();
    apply(&mut slots, &[at(4, &file)]).unwrap();
    let mut offers = Offers::new();
    let pushed = PushedRange {
        gpa: 4 * PAGE,
        size: PAGE,
        file: common::file(file.as_raw_fd(), 0),
    };
    offers.offer(Offer::of(&pushed, 7)).unwrap();
    let other = answer(&vm, &mut offers, 8, 4);
    assert_eq!(other, Err(Rejected::OtherDevice(7)));
    assert_eq!(answer(&vm, &mut offers, 7, 4), Ok(Response::Accept));
    assert!(apply(&mut slots, &[]).is_err());
    // Without this, the guest could keep the range by asking again.
    release(&vm, 4);
    assert_eq!(answer(&vm, &mut offers, 7, 4), Ok(Response::Accept));
    assert!(apply(&mut slots, &[]).is_err());

    assert!(offers.withdraw(4 * PAGE));
    release(&vm, 4);
    let again = answer(&vm, &mut offers, 7, 4);
    assert_eq!(again, Err(Rejected::Withdrawn));
    assert_eq!(apply(&mut slots, &[]), Ok(()));
    assert!(offers.remove(4 * PAGE).is_some());
    let late = answer(&vm, &mut offers, 7, 4);
    assert_eq!(late, Err(Rejected::NotOffered(4 * PAGE)));
}
