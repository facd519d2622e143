// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ioeventfds and coalesced ranges are active where their regions show.

use crate::common;

use std::sync::{Arc, Mutex};

use common::{EVERYTHING, Machine, bell, bytes, memory, switches, triggered};
use memory_model::{
    IoEventFd, Listener, ListenerError, Region, RegionId, SpaceId, Transaction, TreeError, Trigger,
    Update, Use,
};

/// Notes all changes of attachments: `-` for what went, `+` for what came.
#[derive(Default)]
struct Bus {
    notified: Mutex<Vec<String>>,
}

impl Bus {
    fn take(&self) -> Vec<String> {
        core::mem::take(&mut self.notified.lock().unwrap())
    }
}

impl Listener<()> for Bus {
    fn name(&self) -> &str {
        "bus"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        let a = update.attachments;
        assert!(!a.is_empty() || !update.diff.is_empty());
        let events = [("-", &a.ioeventfds_removed), ("+", &a.ioeventfds_added)];
        let ranges = [("-", &a.coalesced_removed), ("+", &a.coalesced_added)];
        let mut notified = self.notified.lock().unwrap();
        for (sign, events) in events {
            let text = |e: &IoEventFd| format!("{sign}{:x} fd {}", e.at, e.event.fd());
            notified.extend(events.iter().map(text));
        }
        for (sign, ranges) in ranges {
            notified.extend(ranges.iter().map(|range| format!("{sign}{range}")));
        }
        Ok(())
    }
}

/// A machine with a doorbell page, and who follows it.
struct Doorbell {
    m: Machine,
    page: RegionId,
    bus: Arc<Bus>,
}

impl Doorbell {
    fn new() -> Self {
        let mut m = Machine::new();
        let page = m.put(Region::mmio("doorbell", 0x100), 0x1000);
        let bus = Arc::new(Bus::default());
        m.model.add_listener(m.space, 0, bus.clone()).unwrap();
        Self { m, page, bus }
    }

    /// Two ioeventfds and a coalesced range are attached to the page.
    fn attached() -> Self {
        let mut d = Self::new();
        let page = d.page;
        d.m.change(|t| {
            t.attach_ioeventfd(page, bell(0x10, 5))?;
            t.attach_ioeventfd(page, bell(0x20, 6))?;
            t.attach_coalesced(page, bytes(0x40, 0x40))
        });
        d.bus.take();
        d
    }

    /// What the bus is notified of in a change.
    fn notified(
        &mut self,
        steps: impl FnOnce(&mut Transaction<'_, ()>) -> Result<(), TreeError>,
    ) -> Vec<String> {
        self.m.change(steps);
        self.bus.take()
    }

    fn active(&self, space: SpaceId) -> Vec<(u64, i32)> {
        let events = self.m.model.ioeventfds(space).into_iter();
        events.map(|e| (e.at, e.event.fd())).collect()
    }
}

#[test]
fn attaching_and_detaching_notify_the_bus() {
    let mut d = Doorbell::new();
    let page = d.page;
    let view = d.m.model.view(d.m.space);
    let notified = d.notified(|t| t.attach_ioeventfd(page, bell(0x10, 5)));
    assert_eq!(notified, ["+1010 fd 5"]);
    let notified = d.notified(|t| t.attach_coalesced(page, bytes(0x40, 0x40)));
    assert_eq!(notified, ["+0x1040..=0x107f"]);
    let notified = d.notified(|t| {
        t.detach_coalesced(page, bytes(0x40, 0x40))?;
        t.detach_ioeventfd(page, &bell(0x10, 5))
    });
    assert_eq!(notified, ["-1010 fd 5", "-0x1040..=0x107f"]);
    // The view has nothing to do with it.
    assert!(Arc::ptr_eq(&view, &d.m.model.view(d.m.space)));
}

#[test]
fn attachments_move_with_their_region_and_go_with_it() {
    let mut d = Doorbell::attached();
    let page = d.page;
    let moved = d.notified(|t| t.move_to(page, 0x2000));
    assert_eq!(
        moved,
        [
            "-1010 fd 5",
            "-1020 fd 6",
            "+2010 fd 5",
            "+2020 fd 6",
            "-0x1040..=0x107f",
            "+0x2040..=0x207f",
        ]
    );
    let hidden = d.notified(|t| t.set_enabled(page, false));
    assert_eq!(hidden, ["-2010 fd 5", "-2020 fd 6", "-0x2040..=0x207f"]);
    assert_eq!(d.active(d.m.space), []);
    assert_eq!(d.notified(|t| t.set_enabled(page, true)).len(), 3);
    assert_eq!(d.active(d.m.space), [(0x2010, 5), (0x2020, 6)]);
    assert_eq!(d.m.model.coalesced(d.m.space), [bytes(0x2040, 0x40)]);
}

#[test]
fn an_ioeventfd_needs_all_its_bytes_and_a_coalesced_range_is_cut() {
    let mut d = Doorbell::attached();
    let root = d.m.root;
    let over = d.m.add(Region::mmio("over", 0x3d));
    // It covers the last byte of the first write, the whole second one, and
    // the first 16 coalesced ones.
    let notified = d.notified(|t| t.place(over, root, 0x1013, 1));
    assert_eq!(
        notified,
        [
            "-1010 fd 5",
            "-1020 fd 6",
            "-0x1040..=0x107f",
            "+0x1050..=0x107f"
        ]
    );
    let notified = d.notified(|t| t.move_to(over, 0x1014));
    assert_eq!(
        notified,
        ["+1010 fd 5", "-0x1050..=0x107f", "+0x1051..=0x107f"]
    );
    // In the middle, it cuts the coalesced range in two.
    let notified = d.notified(|t| t.unplace(over));
    assert_eq!(
        notified,
        ["+1020 fd 6", "-0x1051..=0x107f", "+0x1040..=0x107f"]
    );
    let small = d.m.add(Region::reservation("small", 1));
    let notified = d.notified(|t| t.place(small, root, 0x1060, 1));
    assert_eq!(
        notified,
        ["-0x1040..=0x107f", "+0x1040..=0x105f", "+0x1061..=0x107f"]
    );
}

#[test]
fn a_change_elsewhere_on_the_page_does_not_notify() {
    let mut d = Doorbell::attached();
    let root = d.m.root;
    let over = d.m.add(Region::mmio("over", 8));
    // Runs are cut, but what is active stays where it is.
    let notified = d.notified(|t| t.place(over, root, 0x1018, 1));
    assert_eq!(notified, [""; 0]);
    assert_eq!(d.m.view().len(), 3);
    let notified = d.notified(|t| t.unplace(over));
    assert_eq!(notified, [""; 0]);
}

#[test]
fn attachments_are_active_wherever_the_region_shows() {
    let mut d = Doorbell::new();
    let page = d.page;
    let alias = d.m.put(Region::alias("alias", page, 0x10, 2), 0x3000);
    d.m.put(Region::alias("whole", page, 0x10, 4), 0x4000);
    let ports = d.m.add(Region::container("ports", EVERYTHING));
    let window = Region::alias("window", page, 0, 0x18);
    d.m.put_in(ports, window, 0x80);
    let ports = d.m.model.add_space("ports", ports).unwrap();
    d.bus.take();
    let any = triggered(0x11, Trigger::AnyWrite, 7);
    let notified = d.notified(|t| {
        t.attach_ioeventfd(page, bell(0x10, 5))?;
        t.attach_ioeventfd(page, any)?;
        t.attach_coalesced(page, bytes(0x10, 8))
    });
    assert_eq!(
        notified,
        [
            "+1010 fd 5",
            "+1011 fd 7",
            "+3001 fd 7",
            "+4000 fd 5",
            "+4001 fd 7",
            "+0x1010..=0x1017",
            "+0x3000..=0x3001",
            "+0x4000..=0x4003",
        ]
    );
    assert_eq!(d.active(ports), [(0x90, 5), (0x91, 7)]);
    assert_eq!(d.m.model.coalesced(ports), [bytes(0x90, 8)]);
    let notified = d.notified(|t| t.unplace(alias));
    assert_eq!(notified, ["-3001 fd 7", "-0x3000..=0x3001"]);
}

#[test]
fn a_rom_devices_attachments_are_active_while_it_traps() {
    let mut m = Machine::new();
    let flash = m.put(Region::rom_device("flash", memory(0x100)), 0);
    m.change(|t| t.attach_ioeventfd(flash, bell(0, 5)));
    assert!(m.model.ioeventfds(m.space).is_empty());
    m.change(|t| t.set_direct_reads(flash, false));
    assert_eq!(m.model.ioeventfds(m.space), [bell(0, 5)]);
}

#[test]
fn a_seam_between_two_runs_has_no_ioeventfd() {
    let mut m = Machine::new();
    let page = m.add(Region::mmio("page", 0x10));
    let apart = switches(|s| s.unmergeable = true);
    let halves = [0, 8].map(|at| Region::alias("half", page, at, 8).with_switches(apart));
    for (half, at) in halves.into_iter().zip([0, 8]) {
        m.put(half, at);
    }
    m.change(|t| {
        t.attach_ioeventfd(page, bell(6, 5))?;
        t.attach_ioeventfd(page, bell(8, 6))?;
        t.attach_coalesced(page, bytes(4, 8))
    });
    assert_eq!(m.model.ioeventfds(m.space), [bell(8, 6)]);
    assert_eq!(m.model.coalesced(m.space), [bytes(4, 4), bytes(8, 4)]);
}

#[test]
fn another_eventfd_in_the_same_place_is_another_ioeventfd() {
    let mut d = Doorbell::attached();
    let page = d.page;
    let notified = d.notified(|t| {
        t.detach_ioeventfd(page, &bell(0x10, 5))?;
        t.attach_ioeventfd(page, bell(0x10, 9))
    });
    assert_eq!(notified, ["-1010 fd 5", "+1010 fd 9"]);
    let notified = d.notified(|t| {
        t.detach_ioeventfd(page, &bell(0x10, 9))?;
        t.attach_ioeventfd(page, bell(0x10, 9))
    });
    assert_eq!(notified, [""; 0]);
}

#[test]
fn attaching_and_moving_in_one_transaction_report_only_the_result() {
    let mut d = Doorbell::attached();
    let page = d.page;
    let notified = d.notified(|t| {
        t.set_enabled(page, false)?;
        t.attach_ioeventfd(page, bell(0x30, 7))?;
        t.set_enabled(page, true)?;
        t.move_to(page, 0x2000)?;
        t.detach_ioeventfd(page, &bell(0x20, 6))?;
        t.move_to(page, 0x1000)
    });
    assert_eq!(notified, ["-1020 fd 6", "+1030 fd 7"]);
}

#[test]
fn what_a_dropped_transaction_or_part_attached_never_was() {
    let mut d = Doorbell::attached();
    let page = d.page;
    let steps = |t: &mut Transaction<'_, ()>| {
        t.detach_ioeventfd(page, &bell(0x10, 5)).unwrap();
        t.attach_ioeventfd(page, bell(0x10, 8)).unwrap();
        t.detach_coalesced(page, bytes(0x40, 0x40)).unwrap();
        t.attach_coalesced(page, bytes(0x40, 0x20)).unwrap();
    };
    let mut t = d.m.model.transaction();
    steps(&mut t);
    drop(t);
    let notified = d.notified(|t| {
        steps(&mut t.nested());
        t.attach_ioeventfd(page, bell(0x14, 7))
    });
    assert_eq!(notified, ["+1014 fd 7"]);
    let active = [(0x1010, 5), (0x1014, 7), (0x1020, 6)];
    assert_eq!(d.active(d.m.space), active);
    assert_eq!(d.m.model.coalesced(d.m.space), [bytes(0x1040, 0x40)]);
}

#[test]
fn a_listener_added_later_gets_all_active_attachments() {
    let mut d = Doorbell::attached();
    let late = Arc::new(Bus::default());
    d.m.model.add_listener(d.m.space, 1, late.clone()).unwrap();
    assert_eq!(
        late.take(),
        ["+1010 fd 5", "+1020 fd 6", "+0x1040..=0x107f"]
    );
}

#[test]
fn a_region_with_attachments_is_not_removed() {
    let mut d = Doorbell::attached();
    let page = d.page;
    let mut t = d.m.model.transaction();
    t.unplace(page).unwrap();
    let by = |e: Result<Arc<Region>, TreeError>| match e {
        Err(TreeError::InUse { by, .. }) => by,
        other => panic!("{other:?}"),
    };
    assert_eq!(by(t.remove(page)), Use::HasAttachments);
    t.detach_ioeventfd(page, &bell(0x10, 5)).unwrap();
    t.detach_ioeventfd(page, &bell(0x20, 6)).unwrap();
    assert_eq!(by(t.remove(page)), Use::HasAttachments);
    t.detach_coalesced(page, bytes(0x40, 0x40)).unwrap();
    t.remove(page).unwrap();
    t.commit().unwrap();
    let notified = d.bus.take();
    let removed = ["-1010 fd 5", "-1020 fd 6", "-0x1040..=0x107f"];
    assert_eq!(notified, removed);
}
