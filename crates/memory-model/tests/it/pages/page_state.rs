// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Private and shared pages.

use crate::common;

use common::{Machine, bytes, guest_memfd_ram, host, private_mmio, ram};
use memory_model::{
    AddrRange, GuestMemfdSides, Listener, ListenerError, PageState, Region, StateError, Update,
};
use std::sync::{Arc, Mutex};

const BAR: u64 = 0xe000_0000;
const SIZE: u64 = 0x4000;

/// A page of RAM, and a private BAR.
fn machine() -> Machine {
    let mut m = Machine::new();
    m.put(ram("ram", 0x1000), 0);
    m.put(private_mmio("bar", SIZE), BAR);
    m
}

#[test]
fn only_whole_pages_have_a_state() {
    let mut m = machine();
    let (space, model) = (m.space, &mut m.model);
    model.accept(space, bytes(BAR, SIZE.into())).unwrap();
    let ranges = [
        bytes(BAR, 1),
        bytes(BAR, 0x1001),
        bytes(BAR + 0x800, 0x1800),
        bytes(0x123, 0x1000),
        bytes(u64::MAX, 1),
        bytes(0, u128::from(u64::MAX)),
    ];
    for range in ranges {
        let refused = Err(StateError::Unaligned { range });
        assert_eq!(model.accept(space, range), refused);
        assert_eq!(model.give_back(space, range), refused);
        for state in [PageState::Private, PageState::Shared] {
            assert_eq!(model.set_page_state(space, range, state), refused);
        }
    }
    assert!(model.accepted(space).iter().eq([bytes(BAR, SIZE.into())]));
    assert!(model.private(space).is_empty());
}

#[test]
fn pages_with_a_private_side_can_be_private_and_shared_again() {
    let mut m = machine();
    let space = m.space;
    let sides = [GuestMemfdSides::Private, GuestMemfdSides::Both];
    for (side, address) in sides.into_iter().zip([0x10_0000, 0x10_4000]) {
        m.put(guest_memfd_ram("memfd", 0x4000, side), address);
    }
    let model = &mut m.model;
    for range in [bytes(0x10_0000, 0x8000), bytes(BAR, SIZE.into())] {
        model
            .set_page_state(space, range, PageState::Private)
            .unwrap();
        assert!(model.private(space).covers(range));
    }
    let hole = bytes(0x10_3000, 0x2000);
    model
        .set_page_state(space, hole, PageState::Shared)
        .unwrap();
    let private: Vec<_> = model.private(space).iter().collect();
    assert_eq!(
        private,
        [
            bytes(0x10_0000, 0x3000),
            bytes(0x10_5000, 0x3000),
            bytes(BAR, SIZE.into())
        ]
    );
}

#[test]
fn pages_without_a_private_side_have_no_state_to_set() {
    let mut m = machine();
    let space = m.space;
    let shared = guest_memfd_ram("memfd", 0x1000, GuestMemfdSides::Shared);
    m.put(shared, 0x10_0000);
    let both = guest_memfd_ram("both", 0x1000, GuestMemfdSides::Both);
    m.put(both, 0x20_0000);
    m.put(Region::device_ram("device", host(0x1000)), 0x20_1000);
    m.put(Region::mmio("mmio", 0x1000), 0x30_0000);
    let cases = [
        (bytes(0, 0x1000), 0, "ram"),
        (bytes(0x10_0000, 0x1000), 0x10_0000, "ram"),
        (bytes(0x20_0000, 0x2000), 0x20_1000, "device ram"),
        (bytes(0x30_0000, 0x1000), 0x30_0000, "mmio"),
        (bytes(0x40_0000, 0x1000), 0x40_0000, "nothing"),
    ];
    for (range, at, found) in cases {
        let refused = m.model.set_page_state(space, range, PageState::Private);
        let (found, needed) = (found.into(), "memory with a private side");
        let wrong = StateError::WrongKind {
            range,
            at,
            found,
            needed,
        };
        assert_eq!(refused, Err(wrong));
        // Shared is what they are already.
        m.model
            .set_page_state(space, range, PageState::Shared)
            .unwrap();
    }
    assert_eq!(m.model.private(space).iter().count(), 0);
}

#[test]
fn a_page_stays_private_while_nothing_is_there() {
    let mut m = machine();
    let (space, all) = (m.space, bytes(BAR, SIZE.into()));
    let model = &mut m.model;
    model
        .set_page_state(space, all, PageState::Private)
        .unwrap();
    let bar = model.view(space).find(BAR).unwrap().id();
    m.change(|t| t.unplace(bar));
    assert!(m.model.private(space).covers(all));
    // It can become shared then, but not private.
    let half = bytes(BAR, 0x2000);
    let model = &mut m.model;
    model
        .set_page_state(space, half, PageState::Shared)
        .unwrap();
    let refused = model.set_page_state(space, half, PageState::Private);
    assert!(matches!(refused, Err(StateError::WrongKind { .. })));
    let rest = bytes(BAR + 0x2000, 0x2000);
    assert!(model.private(space).iter().eq([rest]));
}

/// The private pages that it was notified of last.
#[derive(Debug, Default)]
struct Notified(Mutex<Vec<AddrRange>>);

impl Listener<()> for Notified {
    fn name(&self) -> &str {
        "notified"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        *self.0.lock().unwrap() = update.private.iter().collect();
        Ok(())
    }
}

#[test]
fn listeners_learn_which_pages_are_private() {
    let mut m = machine();
    let (space, notified) = (m.space, Arc::new(Notified::default()));
    let page = |n: u64| bytes(BAR + n * 0x1000, 0x1000);
    let set = m.model.set_page_state(space, page(1), PageState::Private);
    set.unwrap();
    m.model.add_listener(space, 0, notified.clone()).unwrap();
    assert_eq!(*notified.0.lock().unwrap(), [page(1)]);
    let set = m.model.set_page_state(space, page(2), PageState::Private);
    set.unwrap();
    m.put(ram("more", 0x1000), 0x10_0000);
    assert_eq!(*notified.0.lock().unwrap(), [bytes(BAR + 0x1000, 0x2000)]);
}
