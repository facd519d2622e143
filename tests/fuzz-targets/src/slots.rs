// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sequence of sets of ranges, planned and applied on a simulated KVM while
//! some calls fail.

use kvm_slots::{
    AbiProfile, Errno, Plan, PlanError, SlotAccess, SlotBacking, SlotRange, StepError,
};
use support::slots::machine::Machine;
use support::slots::{ABI, HOST, PAGE, device_file, file, host};

use crate::input::Input;

const MAX_SETS: usize = 12;
const MAX_RANGES: u64 = 12;

/// A script of target sets of ranges.
pub fn slots(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let mut machine = Machine::with(input.pick(&[ABI, AbiProfile::Push]));
    for _ in 0..MAX_SETS {
        if input.is_empty() {
            break;
        }
        let target: Vec<SlotRange> = (0..input.below(MAX_RANGES))
            .filter_map(|_| one_range(&mut input, &machine))
            .collect();
        change(&mut input, &mut machine, &target);
        machine.check();
    }
    true
}

/// Plans, and applies the plan completely or not at all.
fn change(input: &mut Input<'_>, machine: &mut Machine, target: &[SlotRange]) {
    let Some(plan) = planned(machine, target) else {
        return;
    };
    let before = machine.table().clone();
    let fail = input.one_in(4).then(|| failure(input));
    match machine.apply(&plan, fail) {
        Ok(applied) => {
            assert_eq!(applied.ops(), plan.ops());
            machine.check();
            let slots: u128 = machine
                .table()
                .slots()
                .map(|slot| u128::from(slot.size()))
                .sum();
            let trapped: u128 = plan.trapped().iter().map(|part| part.size()).sum();
            let asked: u128 = target.iter().map(|range| u128::from(range.size())).sum();
            assert_eq!(slots + trapped, asked, "each byte has a slot or is trapped");
            let again = planned(machine, target).expect("it is there already");
            assert_eq!(again.ops(), []);
            if input.one_in(4) {
                assert_eq!(machine.undo(applied, []), []);
                assert_eq!(*machine.table(), before);
            }
        }
        Err(error) => {
            // The kernel has refused a step, for example because of the file.
            // Undoing succeeds, unless the injected failure is there.
            match (&error.not_undone[..], fail) {
                ([], _) => assert_eq!(*machine.table(), before),
                ([first, ..], Some((_, errno))) => {
                    assert_eq!(first.why, StepError::Refused(errno));
                }
                (some, None) => panic!("{some:?}"),
            }
        }
    }
}

/// A plan, unless the ranges are not valid.
fn planned(machine: &Machine, target: &[SlotRange]) -> Option<Plan> {
    match machine.slots.plan(target) {
        Ok(plan) => {
            assert!(are_apart(target));
            assert!(plan.ops().len() <= 2 * (machine.table().len() + plan.ops().len()));
            Some(plan)
        }
        Err(error) => {
            if matches!(error, PlanError::Overlap { .. }) {
                assert!(!are_apart(target), "{error}");
            }
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// No two overlap.
fn are_apart(ranges: &[SlotRange]) -> bool {
    let apart = |a: &SlotRange, b: &SlotRange| !a.range().overlaps(b.range());
    let two = |(n, a): (usize, &SlotRange)| ranges[..n].iter().all(|b| apart(a, b));
    ranges.iter().enumerate().all(two)
}

/// A range, or `None` if it would be empty or wrap.
fn one_range(input: &mut Input<'_>, machine: &Machine) -> Option<SlotRange> {
    let (gpa, size) = (address(input), size(input));
    // The same piece of memory appears at another address, so that it moves.
    let address = HOST + input.below(8) * 0x10_0000 + odd(input, gpa);
    let fds = machine.fds();
    let offset = input.below(5) * PAGE + odd(input, gpa);
    let backing = match input.below(12) {
        0..7 => SlotBacking::Host(host(address)),
        7 => guest_memfd(fds.guest_memfd, offset, None),
        8 => guest_memfd(fds.guest_memfd, offset, Some(address)),
        9 => SlotBacking::FdOffset(device_file(fds.registers[0].0, offset).measured()),
        10 => SlotBacking::FdOffset(device_file(fds.registers[1].0, offset)),
        // A file of the wrong kind, or a descriptor that is not open.
        _ => guest_memfd(input.pick(&[fds.registers[0].0, -1, 0]), offset, None),
    };
    let plain = matches!(backing, SlotBacking::Host(_)) || input.one_in(16);
    let access = match plain && input.one_in(4) {
        true => SlotAccess::ReadOnly,
        false => SlotAccess::ReadWrite,
    };
    let log_dirty = plain && input.one_in(4);
    let range = SlotRange::new(gpa, access, backing.slice(0, size)?);
    assert_eq!(range.is_err(), gpa.checked_add(size - 1).is_none());
    Some(range.ok()?.with_log_dirty(log_dirty))
}

fn guest_memfd(fd: i32, offset: u64, address: Option<u64>) -> SlotBacking {
    let file = file(fd, offset);
    SlotBacking::GuestMemfd {
        file,
        host: address.map(host),
    }
}

/// Mostly a page among few.
fn address(input: &mut Input<'_>) -> u64 {
    let page = input.below(40) * PAGE;
    match input.below(16) {
        0 => page + 1 + input.below(PAGE - 1),
        1 => u64::MAX - page,
        2 => input.number(),
        _ => page,
    }
}

/// Mostly few pages.
fn size(input: &mut Input<'_>) -> u64 {
    let pages = (1 + input.below(4)) * PAGE;
    match input.below(16) {
        0 => input.below(3 * PAGE),
        1 => input.number(),
        // More pages than one slot can have.
        2 => 1 << (40 + input.below(12)),
        _ => pages,
    }
}

/// Mostly with the same offset in a page as the guest's address, as KVM
/// requires.
fn odd(input: &mut Input<'_>, gpa: u64) -> u64 {
    match input.one_in(16) {
        true => input.below(PAGE),
        false => gpa % PAGE,
    }
}

/// The call that fails, and its error.
fn failure(input: &mut Input<'_>) -> (usize, Errno) {
    let errnos = [Errno::EIO, Errno::EINVAL, Errno::ENOMEM, Errno::EEXIST];
    (input.index(12), input.pick(&errnos))
}
