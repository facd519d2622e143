// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Failed and unknown steps, each as it was reported of an existing VMM (microsoft/openvmm 4414, 4416
//! and 4449), and what is undone.

use vfio_private::tdi::sim::Lost;
use vfio_private::tdi::{Dma, Event, MappingState, Obstacle, Outcome, Progress, Step, TdiState};

use crate::tdi::world::{Fault, Meanwhile, Request, World, page};

const LOST: Fault = Fault::Loses(Lost::Done);
const NEVER: Fault = Fault::Loses(Lost::NotDone);

fn locked() -> World {
    let mut world = World::new();
    world.done(Request::Lock);
    world
}

/// Running, and the guest has pages 0 and 1.
fn running() -> World {
    let mut world = locked();
    world.done(Request::Start(&[0, 1]));
    world
}

fn state_of(world: &World, n: u64) -> Option<MappingState> {
    world.tdi.occupant(page(n).gpa()).map(|held| held.state)
}

#[test]
fn a_lock_without_a_report_is_undone() {
    for fault in [Fault::Fails, LOST, NEVER] {
        let mut world = World::new();
        let undone = world.with_fault(Request::Lock, "fetch the report", fault);
        assert_eq!(undone, ["stop"]);
        assert_eq!(world.tdi.state(), TdiState::Unlocked);
        assert!(world.report.is_none());
    }
}

#[test]
fn a_lock_whose_report_and_whose_undoing_both_fail_stays_locked_as_it_is() {
    let mut world = World::new();
    world.ask(Request::Lock).unwrap();
    let (steps, end) = world.run(&[(1, Fault::Fails), (2, Fault::Fails)]);
    assert_eq!(steps, ["lock", "fetch the report", "stop"]);
    let first = Obstacle::Step(Step::FetchReport, Outcome::Failed);
    assert_eq!(end, Progress::NotDone(first));
    assert_eq!(
        (world.tdi.state(), world.tsm.state()),
        (TdiState::Locked, TdiState::Locked)
    );
    world.done(Request::FetchReport);
    world.done(Request::Start(&[0]));
}

#[test]
fn a_lock_with_an_unknown_outcome_is_neither_a_lock_nor_a_failure() {
    for fault in [LOST, NEVER] {
        let mut world = World::new();
        assert_eq!(world.with_fault(Request::Lock, "lock", fault), [""; 0]);
        assert_eq!(world.tdi.state(), TdiState::Unknown);
        assert_eq!(world.tdi.generation(), None);
        let again = world.ask(Request::Lock).unwrap_err();
        assert_eq!(again.to_string(), "cannot lock: TDI 0x100 is unknown");
        assert_eq!(world.done(Request::Stop), ["stop"]);
        world.done(Request::Lock);
        world.done(Request::Start(&[0]));
    }
}

/// 4414: the host's half was done, the platform's half failed, and nothing undid the first.
#[test]
fn an_offer_is_revoked_if_the_platform_refuses_the_mapping() {
    let mut world = running();
    let undone = world.with_fault(Request::Accept(&[2, 3]), "map 3", Fault::Fails);
    assert_eq!(undone, ["revoke 3", "unmap 2", "revoke 2"]);
    assert_eq!([2, 3].map(|n| state_of(&world, n)), [None, None]);
    assert_eq!(state_of(&world, 0), Some(MappingState::Confirmed));
    assert_eq!(
        (world.tdi.state(), world.tsm.offered().len()),
        (TdiState::Running, 2)
    );
    world.done(Request::Accept(&[2, 3]));
}

/// 4414 and 4449: DMA was unblocked, then the mapping failed.
#[test]
fn a_start_whose_second_mapping_fails_is_undone_in_reverse_order() {
    let mut world = locked();
    let undone = world.with_fault(Request::Start(&[0, 1]), "map 1", Fault::Fails);
    let reverse = ["revoke 1", "unmap 0", "revoke 0", "block DMA", "stop"];
    assert_eq!(undone, reverse);
    assert_eq!(
        (world.tdi.state(), world.tdi.dma()),
        (TdiState::Unlocked, Dma::Blocked)
    );
    assert!(world.tdi.mappings().next().is_none());
}

#[test]
fn a_start_takes_back_what_was_accepted_before_it_if_it_must_stop_the_interface() {
    let mut world = locked();
    world.done(Request::Accept(&[2]));
    let undone = world.with_fault(Request::Start(&[0]), "allow DMA", Fault::Fails);
    assert_eq!(undone, ["unmap 2", "revoke 2", "stop"]);
    assert!(world.tsm.offered().is_empty());
}

#[test]
fn a_start_with_an_unknown_outcome_leaves_what_was_confirmed_and_allows_nothing_new() {
    let mut world = locked();
    world.done(Request::Accept(&[2]));
    assert_eq!(
        world.with_fault(Request::Start(&[0]), "start", LOST),
        [""; 0]
    );
    assert_eq!(world.tdi.state(), TdiState::Unknown);
    assert_eq!(
        [0, 2].map(|n| state_of(&world, n)),
        [None, Some(MappingState::Confirmed)]
    );
    assert!(world.ask(Request::Accept(&[0])).is_err());
    assert_eq!(world.done(Request::Stop), ["unmap 2", "revoke 2", "stop"]);
}

#[test]
fn a_mapping_with_an_unknown_outcome_is_undone_or_quarantined() {
    let mut world = running();
    let undone = world.with_fault(Request::Accept(&[2]), "map 2", LOST);
    assert_eq!(undone, ["unmap 2", "revoke 2"]);
    assert_eq!(state_of(&world, 2), None);
    // The platform has nothing to unmap. Whether it will map later is not known.
    let mut world = running();
    let undone = world.with_fault(Request::Accept(&[2]), "map 2", NEVER);
    assert_eq!(undone, ["unmap 2"]);
    assert_eq!(state_of(&world, 2), Some(MappingState::Quarantined));
    assert_eq!(world.tdi.state(), TdiState::Running);
}

/// 4449: an undoing that failed was forgotten, and with it the pages.
#[test]
fn a_range_whose_undoing_fails_is_quarantined_until_a_reset() {
    let mut world = running();
    world.ask(Request::Accept(&[2])).unwrap();
    // Offer, map, unmap.
    let (steps, _) = world.run(&[(1, LOST), (2, Fault::Fails)]);
    assert_eq!(steps, ["offer 2", "map 2", "unmap 2"]);
    assert_eq!(state_of(&world, 2), Some(MappingState::Quarantined));
    let refused = world.ask(Request::Accept(&[2])).unwrap_err().to_string();
    let held = "BAR 0 0x2000-0x2fff at 0x12000 (quarantined, lock 1 of TDI 0x100)";
    let mapping = "BAR 0 0x2000-0x2fff at 0x12000";
    assert_eq!(
        refused,
        format!("TDI 0x100 is RUN: {mapping} is not free, because of {held}")
    );
    assert!(world.ask(Request::Release(&[2])).is_err());
    // It is quarantined whatever else becomes of the interface.
    let _ = world.event(Event::Error);
    let _ = world.run(&[]);
    assert_eq!(world.tdi.quarantined().count(), 1);
    let steps = world.done(Request::Reset);
    assert_eq!(steps, ["reset", "revoke 2"]);
    assert!(world.tdi.mappings().next().is_none() && world.tsm.mapped().is_empty());
}

/// 4449: a failed unbind ended the process.
#[test]
fn a_stop_that_is_refused_changes_nothing_and_can_be_repeated() {
    let mut world = running();
    let after = world.with_fault(Request::Stop, "unmap 0-1", Fault::Fails);
    assert_eq!(after, [""; 0]);
    assert_eq!(state_of(&world, 0), Some(MappingState::Confirmed));
    let after = world.with_fault(Request::Stop, "block DMA", Fault::Fails);
    assert_eq!(after, [""; 0]);
    assert_eq!(
        (world.tdi.state(), world.tdi.dma()),
        (TdiState::Running, Dma::Allowed)
    );
    let after = world.with_fault(Request::Stop, "stop", Fault::Fails);
    assert_eq!(after, [""; 0]);
    assert_eq!(
        (world.tdi.state(), world.tdi.dma()),
        (TdiState::Running, Dma::Blocked)
    );
    assert_eq!(world.done(Request::Stop), ["stop"]);
}

#[test]
fn a_stop_goes_on_after_an_unknown_unmapping_and_keeps_the_range_from_reuse() {
    let mut world = World::keeping_mappings();
    world.done(Request::Lock);
    world.done(Request::Start(&[0]));
    let after = world.with_fault(Request::Stop, "unmap 0", NEVER);
    assert_eq!(after, ["block DMA", "stop"]);
    assert_eq!(world.tdi.state(), TdiState::Unlocked);
    // The guest still has it, under the next lock, too.
    assert_eq!(world.tsm.mapped().len(), 1);
    world.done(Request::Lock);
    assert!(world.ask(Request::Accept(&[0])).is_err());
    world.done(Request::Accept(&[1]));
}

#[test]
fn dma_that_may_be_allowed_prevents_a_lock() {
    let mut world = running();
    let after = world.with_fault(Request::Stop, "block DMA", NEVER);
    assert_eq!(after, ["stop"]);
    assert_eq!(
        (world.tdi.state(), world.tdi.dma()),
        (TdiState::Unlocked, Dma::Unknown)
    );
    let refused = world.ask(Request::Lock).unwrap_err().to_string();
    let why = "cannot lock: TDI 0x100 is CONFIG_UNLOCKED, and its DMA is unknown, not blocked";
    assert_eq!(refused, why);
    assert_eq!(world.done(Request::Stop), ["block DMA"]);
    world.done(Request::Lock);
}

#[test]
fn an_error_takes_everything_from_the_guest_and_only_a_stop_leads_out() {
    let mut world = running();
    assert_eq!(world.event(Event::Error), Progress::InProgress);
    assert_eq!(world.tdi.state(), TdiState::Error);
    assert_eq!(state_of(&world, 0), Some(MappingState::Releasing));
    assert!(world.ask(Request::Accept(&[2])).is_err());
    let (steps, end) = world.run(&[]);
    assert_eq!(steps, ["unmap 0-1", "revoke 0-1", "block DMA"]);
    assert_eq!(end, Progress::Done);
    let refused = world.ask(Request::Lock).unwrap_err().to_string();
    assert_eq!(refused, "cannot lock: TDI 0x100 is ERROR");
    assert_eq!(world.done(Request::Stop), ["stop"]);
    world.done(Request::Lock);
}

#[test]
fn a_removed_device_loses_its_mappings_and_returns_by_a_reset() {
    let mut world = running();
    let _ = world.event(Event::Removed);
    let (steps, end) = world.run(&[]);
    assert_eq!(steps, ["unmap 0-1", "revoke 0-1", "block DMA"]);
    assert_eq!(
        (end, world.tdi.state()),
        (Progress::Done, TdiState::Removed)
    );
    assert!(world.ask(Request::Stop).is_err() && world.ask(Request::Lock).is_err());
    world.tsm.insert();
    world.done(Request::Reset);
    world.done(Request::Lock);
}

#[test]
fn a_reset_from_outside_leaves_only_the_host_s_half_to_undo() {
    let mut world = running();
    assert_eq!(world.event(Event::Reset), Progress::InProgress);
    assert_eq!(state_of(&world, 0), Some(MappingState::Releasing));
    assert!(world.ask(Request::Lock).is_err());
    assert_eq!(
        world.run(&[]),
        (vec!["revoke 0-1".to_string()], Progress::Done)
    );
    world.done(Request::Lock);
}

#[test]
fn an_error_during_a_mapping_ends_the_request_and_waits_for_the_answer() {
    let mut world = running();
    world.ask(Request::Accept(&[2])).unwrap();
    let _ = world.step(Fault::None, Meanwhile::Nothing);
    let step = world.step(Fault::None, Meanwhile::After(Event::Error));
    assert_eq!(step, Some((Step::Map(page(2)), Progress::InProgress)));
    assert_eq!(state_of(&world, 2), Some(MappingState::Releasing));
    let (steps, end) = world.run(&[]);
    let back = [
        "unmap 2",
        "revoke 2",
        "unmap 0-1",
        "revoke 0-1",
        "block DMA",
    ];
    assert_eq!(steps, back);
    assert_eq!(end, Progress::NotDone(Obstacle::Event(Event::Error)));
}

#[test]
fn a_lock_during_which_the_device_was_reset_may_be_in_force_or_not() {
    for meanwhile in [
        Meanwhile::Before(Event::Reset),
        Meanwhile::After(Event::Reset),
    ] {
        let mut world = World::new();
        world.ask(Request::Lock).unwrap();
        let end = world.step(Fault::None, meanwhile).unwrap().1;
        assert_eq!(end, Progress::NotDone(Obstacle::Event(Event::Reset)));
        assert_eq!(world.tdi.state(), TdiState::Unknown);
        world.done(Request::Stop);
    }
}

#[test]
fn a_reset_with_an_unknown_outcome_frees_nothing() {
    let mut world = running();
    world.ask(Request::Reset).unwrap();
    // Unmap, block DMA, reset.
    let (steps, _) = world.run(&[(0, NEVER), (1, Fault::Fails), (2, LOST)]);
    assert_eq!(steps, ["unmap 0-1", "block DMA", "reset"]);
    assert_eq!(
        (world.tdi.state(), world.tdi.dma()),
        (TdiState::Unknown, Dma::Unknown)
    );
    assert_eq!(state_of(&world, 0), Some(MappingState::Quarantined));
    world.done(Request::Reset);
    assert_eq!(world.tdi.mappings().count(), 0);
}
