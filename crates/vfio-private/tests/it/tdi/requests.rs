// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which requests a TDI refuses, and which parts of mappings can be released.

use vfio_private::tdi::{
    InterfaceId, MAX_MAPPINGS, Mapping, MappingState, Outcome, PrivateBytes, Progress, Tdi,
    TdiError, TdiState,
};

use crate::common::{Device, index, span, tee};
use crate::tdi::world::{Fault, Meanwhile, Request, World, page};

fn running() -> World {
    let mut world = World::new();
    world.done(Request::Lock);
    world.done(Request::Start(&[]));
    world
}

#[track_caller]
fn refused(world: &World, mappings: &[Mapping], why: &str) {
    let mut tdi = world.tdi.clone();
    let report = &world.report.as_ref().unwrap().1;
    assert_eq!(tdi.accept(report, mappings).unwrap_err().to_string(), why);
    assert_eq!(tdi, world.tdi);
}

#[test]
fn only_whole_free_and_private_pages_can_be_accepted() {
    let mut world = running();
    refused(&world, &[], "TDI 0x100: there is nothing to accept");
    let half = Mapping::new(index(0), span(0x800, 0x1000), 0x8800).unwrap();
    let why = "TDI 0x100: BAR 0 0x800-0x17ff at 0x8800 is not made of whole pages";
    refused(&world, &[half], why);
    let shared = Mapping::new(index(0), span(0x3000, 0x2000), 0x8000).unwrap();
    let why = "TDI 0x100: 0x4000-0x4fff of BAR 0 0x3000-0x4fff at 0x8000 are not private";
    refused(&world, &[shared], why);
    let elsewhere = Mapping::new(index(1), span(0, 0x1000), 0x8000).unwrap();
    let why = "TDI 0x100: 0x0-0xfff of BAR 1 0x0-0xfff at 0x8000 are not private";
    refused(&world, &[elsewhere], why);
    let twice = Mapping::new(index(0), span(0, 0x1000), 0x8000).unwrap();
    let why = "TDI 0x100: BAR 0 0x0-0xfff at 0x8000 conflicts with BAR 0 0x0-0xfff at 0x10000";
    refused(&world, &[page(0), twice], why);
    world.done(Request::Accept(&[0]));
    let held = "BAR 0 0x0-0xfff at 0x10000 (confirmed, lock 1 of TDI 0x100)";
    let why = format!("TDI 0x100 is RUN: {twice} is not free, because of {held}");
    refused(&world, &[twice], &why);
    let same_address = Mapping::new(index(0), span(0x1000, 0x1000), 0x1_0000).unwrap();
    let why = format!("TDI 0x100 is RUN: {same_address} is not free, because of {held}");
    refused(&world, &[same_address], &why);
    assert_eq!(Mapping::new(index(0), span(0, 0x1000), u64::MAX - 5), None);
}

#[test]
fn requests_need_the_state_that_they_start_from() {
    let mut world = World::new();
    let states = |world: &mut World| {
        let requests = [Request::FetchReport, Request::Stop, Request::Lock];
        requests.map(|request| world.clone().ask(request).is_ok())
    };
    assert_eq!(states(&mut world), [false, false, true]);
    world.done(Request::Lock);
    assert_eq!(states(&mut world), [true, true, false]);
    assert!(world.clone().ask(Request::Start(&[])).is_ok());
    world.done(Request::Start(&[]));
    assert_eq!(states(&mut world), [true, true, false]);
    let again = world.ask(Request::Start(&[])).unwrap_err();
    assert_eq!(again.to_string(), "cannot start: TDI 0x100 is RUN");
}

#[test]
fn nothing_can_be_asked_while_a_step_is_under_way() {
    let mut world = running();
    world.ask(Request::Accept(&[0])).unwrap();
    let ticket = world.tdi.begin().unwrap();
    assert_eq!((world.tdi.next_step(), world.tdi.begin()), (None, None));
    for request in [
        Request::FetchReport,
        Request::Release(&[0]),
        Request::Stop,
        Request::Reset,
    ] {
        let busy = world.ask(request).unwrap_err().to_string();
        let next = "the next step is to offer BAR 0 0x0-0xfff at 0x10000";
        assert_eq!(busy, format!("TDI 0x100 is RUN and busy: {next}"));
    }
    let _ = world.tdi.answered(ticket, Outcome::Failed).unwrap();
}

#[test]
fn a_stop_replaces_a_request_between_its_steps() {
    let mut world = running();
    world.ask(Request::Accept(&[0, 1])).unwrap();
    for _ in 0..3 {
        let _ = world.step(Fault::None, Meanwhile::Nothing);
    }
    let steps = world.done(Request::Stop);
    assert_eq!(
        steps,
        ["revoke 1", "unmap 0", "revoke 0", "block DMA", "stop"]
    );
    // A request of which no step was begun is simply given up.
    world.ask(Request::Lock).unwrap();
    world.ask(Request::Stop).unwrap();
    assert_eq!(world.tdi.next_step(), None);
    assert_eq!(world.tdi.state(), TdiState::Unlocked);
    world.done(Request::Lock);
}

#[test]
fn an_answer_is_for_the_step_that_is_under_way_and_for_no_other() {
    let mut tdi = Tdi::new(InterfaceId(1));
    tdi.lock().unwrap();
    let ticket = tdi.begin().unwrap();
    assert_eq!(
        tdi.lost(),
        Progress::NotDone(vfio_private::tdi::Obstacle::Step(
            vfio_private::tdi::Step::Lock,
            Outcome::Unknown,
        ))
    );
    let late = tdi.answered(ticket, Outcome::Succeeded).unwrap_err();
    assert_eq!(
        late.to_string(),
        "TDI 0x1 does not wait for the outcome of: lock"
    );
    assert_eq!(tdi.state(), TdiState::Unknown);
    // The same step again, under the same lock.
    let mut world = running();
    world.ask(Request::FetchReport).unwrap();
    let ticket = world.tdi.begin().unwrap();
    let _ = world.tdi.lost();
    world.ask(Request::FetchReport).unwrap();
    let again = world.tdi.begin().unwrap();
    assert!(world.tdi.answered(ticket, Outcome::Succeeded).is_err());
    assert!(world.tdi.answered(again, Outcome::Succeeded).is_ok());
    let mut other = Tdi::new(InterfaceId(2));
    other.lock().unwrap();
    let ticket = other.begin().unwrap();
    tdi.stop().unwrap();
    let ours = tdi.begin().unwrap();
    assert!(matches!(
        tdi.answered(ticket, Outcome::Succeeded),
        Err(TdiError::NotUnderWay { .. })
    ));
    assert_eq!(tdi.answered(ours, Outcome::Succeeded), Ok(Progress::Done));
    assert_eq!(tdi.lost(), Progress::Done);
}

#[test]
fn mappings_are_released_in_parts_and_joined_if_they_continue_each_other() {
    let mut world = running();
    world.done(Request::Accept(&[0, 1, 2, 3]));
    assert_eq!(world.tdi.mappings().count(), 1);
    let steps = world.done(Request::Release(&[1, 2]));
    assert_eq!(steps, ["unmap 1-2", "revoke 1-2"]);
    let left: Vec<Mapping> = world.tdi.mappings().map(|held| held.mapping).collect();
    assert_eq!(left, [page(0), page(3)]);
    let nothing = world.ask(Request::Release(&[1])).unwrap_err().to_string();
    assert_eq!(
        nothing,
        "TDI 0x100: the guest has accepted nothing at 0x11000-0x11fff"
    );
    world.done(Request::Accept(&[1, 2]));
    assert_eq!(world.tdi.mappings().count(), 1);
    let part = span(0x1_0800, 0x100);
    assert!(matches!(
        world.tdi.release(part),
        Err(TdiError::Unaligned { .. })
    ));
    assert!(
        world
            .tdi
            .mappings()
            .all(|held| held.state == MappingState::Confirmed)
    );
}

#[test]
fn the_number_of_mappings_is_bounded() {
    let pages = 2 * MAX_MAPPINGS as u64;
    let device = Device::with_bar(pages.next_power_of_two() * 0x1000);
    let pieces = device.report(&[tee(0, pages * 0x1000)]).classify().unwrap();
    let private = PrivateBytes::new().with_bar(index(0), &pieces);
    let mut tdi = Tdi::new(InterfaceId(1));
    tdi.lock().unwrap();
    let lock = tdi.begin().unwrap();
    let _ = tdi.answered(lock, Outcome::Succeeded).unwrap();
    let fetch = tdi.begin().unwrap();
    let private = fetch.attest(private).unwrap();
    let _ = tdi.answered(fetch, Outcome::Succeeded).unwrap();
    // Every other page, so that none continues another.
    let apart: Vec<Mapping> = (0..MAX_MAPPINGS as u64 - 2).map(|n| page(2 * n)).collect();
    tdi.accept(&private, &apart).unwrap();
    while let Some(ticket) = tdi.begin() {
        let _ = tdi.answered(ticket, Outcome::Succeeded).unwrap();
    }
    assert_eq!(tdi.mappings().count(), MAX_MAPPINGS - 2);
    let more = tdi.accept(&private, &[page(1)]).unwrap_err().to_string();
    assert_eq!(more, "TDI 0x1 cannot have more than 4096 mappings");
    tdi.release(page(0).gpa()).unwrap();
}
