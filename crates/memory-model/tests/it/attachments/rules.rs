// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be attached to which region, and in which combinations.

use crate::common;

use common::{Machine, bell, bytes, host, private_mmio, ram, triggered};
use memory_model::{AddrRange, Region, RegionId, TreeError, Trigger};

/// A machine with a page that traps.
fn machine() -> (Machine, RegionId) {
    let mut m = Machine::new();
    let page = m.put(Region::mmio("page", 0x100), 0x1000);
    (m, page)
}

#[test]
fn attachments_are_for_what_traps_and_lie_inside_it() {
    let (mut m, page) = machine();
    let others = [
        ram("r", 0x100),
        Region::reservation("r", 0x100),
        Region::container("r", 0x100),
        Region::device_ram("r", host(0x100)),
        private_mmio("r", 0x100),
        Region::alias("r", page, 0, 0x100),
    ];
    let mut t = m.model.transaction();
    for region in others {
        let id = t.add(region).unwrap();
        let refused = [
            t.attach_ioeventfd(id, bell(0, 5)),
            t.attach_coalesced(id, bytes(0, 8)),
        ];
        let not_trapped = |r: &Result<_, _>| matches!(r, Err(TreeError::NotTrapped { .. }));
        assert!(refused.iter().all(not_trapped), "{refused:?}");
    }
    let outside = [
        t.attach_ioeventfd(page, bell(0xfd, 5)),
        t.attach_ioeventfd(page, bell(u64::MAX, 5)),
        t.attach_ioeventfd(page, triggered(0x100, Trigger::AnyWrite, 5)),
        t.attach_coalesced(page, bytes(0xff, 2)),
        t.attach_coalesced(page, AddrRange::ALL),
    ];
    let is_outside = |r: &Result<_, _>| matches!(r, Err(TreeError::OutsideRegion { .. }));
    assert!(outside.iter().all(is_outside), "{outside:?}");
    t.attach_ioeventfd(page, bell(0xfc, 5)).unwrap();
    let last = triggered(0xff, Trigger::AnyWrite, 5);
    t.attach_ioeventfd(page, last).unwrap();
    t.commit().unwrap();
}

#[test]
fn one_write_signals_one_eventfd() {
    let (mut m, page) = machine();
    let mut t = m.model.transaction();
    let mut attach = |trigger| {
        t.attach_ioeventfd(page, triggered(0x10, trigger, 5))
            .is_ok()
    };
    assert!(attach(Trigger::U16(Some(1))));
    assert!(attach(Trigger::U16(Some(2))));
    assert!(attach(Trigger::U32(Some(1))));
    assert!(attach(Trigger::U64(None)));
    assert!(!attach(Trigger::U16(Some(1))));
    assert!(!attach(Trigger::U16(None)));
    assert!(!attach(Trigger::U64(Some(7))));
    assert!(!attach(Trigger::AnyWrite));
    assert!(attach(Trigger::U8(None)));
    // Another address is another write.
    let beside = triggered(0x11, Trigger::AnyWrite, 5);
    t.attach_ioeventfd(page, beside).unwrap();
    // Not this trigger, and not this eventfd.
    let not = triggered(0x10, Trigger::U16(None), 5);
    let attached = |r| !matches!(r, Err(TreeError::NotAttached { .. }));
    assert!(!attached(t.detach_ioeventfd(page, &not)));
    let not = triggered(0x10, Trigger::U8(None), 6);
    assert!(!attached(t.detach_ioeventfd(page, &not)));
}

#[test]
fn coalesced_ranges_of_a_region_do_not_overlap() {
    let (mut m, page) = machine();
    m.change(|t| t.attach_coalesced(page, bytes(0x40, 0x40)));
    let mut t = m.model.transaction();
    for range in [
        bytes(0x38, 9),
        bytes(0x7f, 1),
        bytes(0x50, 8),
        bytes(0, 0x100),
    ] {
        let refused = t.attach_coalesced(page, range);
        let at = range.start().max(0x40);
        let name = "page".into();
        assert_eq!(refused, Err(TreeError::AlreadyAttached { name, at }));
    }
    t.attach_coalesced(page, bytes(0x38, 8)).unwrap();
    t.attach_coalesced(page, bytes(0x80, 1)).unwrap();
    for range in [bytes(0x40, 0x3f), bytes(0x41, 0x3f)] {
        let refused = t.detach_coalesced(page, range);
        assert!(matches!(refused, Err(TreeError::NotAttached { .. })));
    }
}
