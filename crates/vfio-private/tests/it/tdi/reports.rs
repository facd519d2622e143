// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A report is worth something only under the lock that it came from (microsoft/openvmm 4416).

use std::rc::Rc;

use vfio_private::tdi::{
    Attested, Event, InterfaceId, Outcome, PrivateBytes, StaleReport, Step, Tdi, TdiError,
};
use vfio_private::{
    Bar, BarInput, BarKind, InterfaceReport, OffsetRule, PageSize, Policy, Region, classify,
};

use crate::common::index;
use crate::tdi::world::{Request, World, page};

fn locked() -> (World, Rc<(u64, Attested<PrivateBytes>)>) {
    let mut world = World::new();
    world.done(Request::Lock);
    let report = world.report.clone().unwrap();
    (world, report)
}

#[track_caller]
fn refuses(world: &World, report: &Attested<PrivateBytes>, why: &str) {
    let stale: StaleReport = report.open(&world.tdi).unwrap_err();
    assert_eq!(stale.to_string(), why);
    let mut tdi = world.tdi.clone();
    assert!(tdi.start(report, &[page(0)]).is_err());
    assert!(tdi.accept(report, &[page(0)]).is_err());
    assert_eq!(tdi, world.tdi);
}

#[test]
fn a_report_is_void_after_a_stop_and_under_the_next_lock() {
    let (mut world, report) = locked();
    assert!(report.1.open(&world.tdi).is_ok());
    world.done(Request::Stop);
    let stale = "the report is from lock 1 of TDI 0x100, and TDI 0x100 is CONFIG_UNLOCKED \
                 without a lock in force";
    refuses(&world, &report.1, stale);
    world.done(Request::Lock);
    let stale = "the report is from lock 1 of TDI 0x100, and TDI 0x100 is CONFIG_LOCKED \
                 under lock 2 of TDI 0x100";
    refuses(&world, &report.1, stale);
    let error = world.tdi.start(&report.1, &[]).unwrap_err();
    assert!(matches!(error, TdiError::Stale(_)));
    world.done(Request::Start(&[0]));
}

#[test]
fn a_report_is_void_after_an_error_a_removal_and_a_reset() {
    for event in [Event::Error, Event::Removed, Event::Reset] {
        let (mut world, report) = locked();
        let _ = world.event(event);
        assert!(report.1.open(&world.tdi).is_err());
    }
}

#[test]
fn a_report_is_worth_nothing_for_another_interface() {
    let (world, report) = locked();
    let mut other = World::new();
    other.tdi = Tdi::new(InterfaceId(0x101));
    other.done(Request::Lock);
    assert_eq!(
        other.tdi.generation().unwrap().number,
        report.1.generation().number
    );
    let stale = "the report is from lock 1 of TDI 0x100, and TDI 0x101 is CONFIG_LOCKED \
                 under lock 1 of TDI 0x101";
    refuses(&other, &report.1, stale);
    assert!(report.1.open(&world.tdi).is_ok());
}

#[test]
fn a_reply_that_comes_after_an_error_belongs_to_the_old_lock() {
    let (mut world, _) = locked();
    world.ask(Request::FetchReport).unwrap();
    let ticket = world.tdi.begin().unwrap();
    let _ = world.event(Event::Error);
    let late = ticket.attest(PrivateBytes::new()).unwrap();
    let _ = world.tdi.answered(ticket, Outcome::Succeeded).unwrap();
    let _ = world.run(&[]);
    world.done(Request::Stop);
    world.done(Request::Lock);
    assert!(late.open(&world.tdi).is_err());
}

#[test]
fn only_a_step_that_fetches_a_report_attests_one() {
    let mut tdi = Tdi::new(InterfaceId(1));
    tdi.lock().unwrap();
    let ticket = tdi.begin().unwrap();
    assert_eq!((ticket.step(), ticket.attest(())), (Step::Lock, None));
}

/// The whole way: bytes, ranges, pieces, private bytes. The lock stays with them.
#[test]
fn a_report_keeps_its_lock_while_it_is_parsed_placed_and_classified() {
    let mut bytes = vec![0; 12];
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0xe_0000_u64.to_le_bytes());
    // Two pages, TEE, range 0.
    bytes.extend([2_u32, 0].map(u32::to_le_bytes).concat());
    bytes.extend(0_u32.to_le_bytes());

    let mut tdi = Tdi::new(InterfaceId(1));
    tdi.lock().unwrap();
    let lock = tdi.begin().unwrap();
    let _ = tdi.answered(lock, Outcome::Succeeded).unwrap();
    let fetch = tdi.begin().unwrap();
    let report = fetch.attest(bytes).unwrap();
    let _ = tdi.answered(fetch, Outcome::Succeeded).unwrap();

    let bar = Bar::new(index(0), BarKind::Memory, 0x4000).unwrap();
    let region = Region::mappable();
    let placed = report
        .try_map(|bytes| InterfaceReport::parse(&bytes))
        .unwrap();
    let placed = placed
        .try_map(|report| report.place(&[bar], OffsetRule::Masked))
        .unwrap();
    let pieces = placed.try_map(|placed| {
        let input = BarInput::new(bar, &region).with_report(Some(placed.of(index(0))));
        classify(&input, PageSize::Size4K, Policy::new())
    });
    let private = pieces
        .unwrap()
        .map(|pieces| PrivateBytes::new().with_bar(index(0), &pieces));
    tdi.start(&private, &[page(0), page(1)]).unwrap();
    let error = tdi.clone().start(&private, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "TDI 0x1 is CONFIG_LOCKED and busy: the next step is to start"
    );
    tdi.stop().unwrap();
    assert_eq!(tdi.next_step(), Some(Step::Stop));
}
