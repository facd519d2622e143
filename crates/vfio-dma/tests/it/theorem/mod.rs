// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No device ever reaches a private page.
//!
//! The theorem, for every state that a VM can reach, between any two calls to KVM, to an
//! IOMMU or to a listener, whichever of them fail or panic:
//!
//! 1. No page is private while it is mapped for a device, by its address or by its memory.
//!    No one even asks for that.
//! 2. No shared page is lost silently: each device has all shared memory mapped that fills
//!    pages of its IOMMU, or its listener knows that it has to resync, which the next
//!    transaction does. What the model records as private is private for KVM, and nothing
//!    else is.
//! 3. No live byte is discarded.
//!
//! `explore` shows it for all states of small worlds, `random` for some of a larger
//! one. `records` checks it, from what the platforms were asked to do.
//!
//! The default takes some seconds. `cargo xtask explore --steps 1000000` makes a million
//! random steps. To explore further, for example all pairs of faults:
//!
//! ```text
//! THEOREM_FAULTS=1x2 cargo test --release -p vfio-dma theorem::
//! ```

mod explore;
mod iommu;
mod probe;
mod random;
mod records;
mod report;
mod state;
mod tape;
mod vm;
mod world;

use std::env;
use std::time::Instant;

use explore::{Bounds, Tally, explore};
use kvm_slots::convert::{Home, PageState};
use vfio_dma::SimIommuKind::{Iommufd, Type1};
use world::{Op, Setup, What};

pub(crate) const PAGE: u64 = 4096;

const HOMES: [Home; 3] = [Home::VmAttributes, Home::FileAttributes, Home::Platform];

fn places(region: usize, places: &[u64]) -> Vec<Op> {
    let all = places.iter().map(|page| Some(*page)).chain([None]);
    all.map(|at| Op::Place(region, at)).collect()
}

fn conversions(ranges: &[(u64, u64)]) -> Vec<Op> {
    let both = [PageState::Private, PageState::Shared];
    let all = ranges
        .iter()
        .flat_map(|(page, count)| both.map(|to| Op::Convert(*page, *count, to)));
    all.collect()
}

fn attachments(count: usize) -> Vec<Op> {
    (0..count)
        .flat_map(|n| [Op::Attach(n), Op::Detach(n)])
        .collect()
}

/// How many operations of a path have faults, and how many faults one of them has: as
/// `THEOREM_FAULTS` says, for example `2x1`.
fn bounds(default: (usize, usize)) -> Bounds {
    let faults = env::var("THEOREM_FAULTS").ok().map(|faults| {
        let (operations, faults) = faults.split_once('x').expect("such as 1x2");
        (operations.parse().unwrap(), faults.parse().unwrap())
    });
    let (faulty_operations, faults) = faults.unwrap_or(default);
    Bounds {
        faulty_operations,
        faults,
    }
}

fn proven(setup: &Setup, ops: &[Op], bounds: &Bounds) -> Tally {
    let start = Instant::now();
    match explore(setup, ops, bounds) {
        Ok(tally) => {
            eprintln!("{}: {tally:?} in {:?}", setup.home, start.elapsed());
            report::explored(setup.home, &tally);
            tally
        }
        Err(broken) => {
            report::violated(setup.home, &broken);
            panic!("{}: {broken}", setup.home)
        }
    }
}

#[test]
fn no_device_reaches_private_pages_of_memory_that_moves() {
    for (home, states, transitions) in [
        (HOMES[0], 300, 8_000),
        (HOMES[1], 200, 5_000),
        (HOMES[2], 300, 8_000),
    ] {
        let setup = Setup {
            home,
            window: 4,
            regions: vec![What::Split(1), What::InPlace(2)],
            devices: vec![(Iommufd, 1, 1)],
        };
        let mut ops = places(0, &[0, 2]);
        ops.extend(places(1, &[1, 0]));
        ops.extend(conversions(&[(0, 1), (1, 2), (0, 3)]));
        ops.extend(attachments(1));
        let tally = proven(&setup, &ops, &bounds((1, 1)));
        assert!(tally.states >= states && tally.transitions >= transitions);
    }
}

#[test]
fn neither_of_two_devices_reaches_private_pages() {
    for home in HOMES {
        let setup = Setup {
            home,
            window: 2,
            regions: vec![What::InPlace(2)],
            devices: vec![(Iommufd, 2, 1), (Type1, 1, 1)],
        };
        let mut ops = places(0, &[0]);
        ops.extend(conversions(&[(0, 1), (1, 1), (0, 2)]));
        ops.extend(attachments(2));
        let tally = proven(&setup, &ops, &bounds((1, 1)));
        assert!(tally.states >= 100 && tally.transitions >= 2_000);
    }
}

#[test]
fn no_device_reaches_private_pages_whichever_three_calls_fail() {
    for home in HOMES {
        let setup = Setup {
            home,
            window: 3,
            regions: vec![What::Split(1), What::InPlace(2)],
            devices: vec![(Iommufd, 2, 1)],
        };
        // A conversion of all pages takes several calls, unless the home is the VM.
        let mut ops = vec![Op::Place(0, Some(0)), Op::Place(1, Some(1))];
        ops.extend(conversions(&[(1, 1), (0, 3)]));
        ops.extend(attachments(1));
        let tally = proven(&setup, &ops, &bounds((1, 3)));
        assert!(tally.states >= 100 && tally.transitions >= 4_000);
    }
}

#[test]
fn no_device_reaches_private_registers_or_pages_that_other_memory_hides() {
    for (home, states, transitions) in [
        (HOMES[0], 300, 8_000),
        (HOMES[1], 200, 4_500),
        (HOMES[2], 300, 8_000),
    ] {
        let setup = Setup {
            home,
            window: 3,
            regions: vec![What::Split(2), What::PrivateMmio(1), What::Bar(1)],
            devices: vec![(Type1, 1, 1)],
        };
        let mut ops = places(0, &[0]);
        ops.extend(places(1, &[2]));
        ops.extend(places(2, &[1, 2]));
        ops.extend(conversions(&[(1, 1), (1, 2)]));
        ops.push(Op::Revoke(1, 2));
        ops.extend(attachments(1));
        let tally = proven(&setup, &ops, &bounds((1, 1)));
        assert!(tally.states >= states && tally.transitions >= transitions);
    }
}

#[test]
fn no_device_reaches_private_pages_that_share_an_iommu_page_with_others() {
    for (home, states, transitions) in [
        (HOMES[0], 300, 10_000),
        (HOMES[1], 60, 2_000),
        (HOMES[2], 300, 10_000),
    ] {
        let setup = Setup {
            home,
            window: 8,
            regions: vec![What::InPlace(4), What::Bar(1)],
            devices: vec![(Type1, 1, 4)],
        };
        let mut ops = places(0, &[0, 4]);
        ops.extend(places(1, &[3]));
        ops.extend(conversions(&[(0, 1), (1, 2), (4, 2), (0, 4)]));
        ops.extend(attachments(1));
        let tally = proven(&setup, &ops, &bounds((1, 1)));
        assert!(tally.states >= states && tally.transitions >= transitions);
    }
}

#[test]
fn no_device_reaches_private_pages_in_random_steps() {
    let number = |name, default| {
        let value = env::var(name).ok().map(|value| value.parse().unwrap());
        value.unwrap_or(default)
    };
    let steps = usize::try_from(number("THEOREM_STEPS", 6_000)).unwrap();
    // A new world from time to time: some faults have lasting effects.
    let in_a_world = 500;
    let start = Instant::now();
    for home in HOMES {
        let first = number("THEOREM_SEED", 0);
        let (mut done, mut calls, mut seed) = (0, 0, first);
        while done < steps / HOMES.len() {
            match random::run(home, seed, in_a_world) {
                Ok(ran) => {
                    done += ran.steps;
                    calls += ran.calls;
                }
                Err(broken) => {
                    report::violated(home, &broken);
                    panic!("{home}: {broken}")
                }
            }
            seed += 1;
        }
        report::ran(home, done, calls);
        let time = start.elapsed();
        eprintln!("{home}: {done} steps, {calls} calls from seed {first} on, in {time:?}");
    }
}
