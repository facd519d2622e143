// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of pages is bounded, however a guest moves memory.

use crate::common;

use common::{Machine, bytes, guest_memfd_ram};
use memory_model::{
    AddrRange, GuestMemfdSides, PAGE_SIZE, PageSet, PageState, RegionId, StateError,
};

/// The pages that share a bitmap, which is what the state grows by.
const CHUNK: u64 = 16 << 20;
const CHUNK_BYTES: usize = 576;

/// A BAR of two pages that can be private, at address 0.
fn machine() -> (Machine, RegionId) {
    let mut m = Machine::new();
    let sides = GuestMemfdSides::Private;
    let bar = m.put(guest_memfd_ram("bar", 2 * PAGE_SIZE, sides), 0);
    (m, bar)
}

fn page(address: u64) -> AddrRange {
    bytes(address, PAGE_SIZE.into())
}

impl Machine {
    /// The guest moves the BAR, and makes its first page private there.
    fn convert_at(&mut self, bar: RegionId, address: u64) -> Result<(), StateError> {
        let mut t = self.model.transaction();
        t.move_to(bar, address).unwrap();
        t.commit().unwrap();
        let private = PageState::Private;
        self.model
            .set_page_state(self.space, page(address), private)
    }
}

#[test]
fn a_bar_that_moves_about_does_not_grow_the_state_beyond_the_limit() {
    let (mut m, bar) = machine();
    let (places, limit) = (1000, 100 * CHUNK_BYTES + CHUNK_BYTES - 1);
    m.model.set_state_limit(m.space, limit);
    let results: Vec<_> = (0..places).map(|n| m.convert_at(bar, n * CHUNK)).collect();
    assert!(results[..100].iter().all(Result::is_ok));
    for (n, result) in (100..).zip(&results[100..]) {
        let range = page(n * CHUNK);
        assert_eq!(*result, Err(StateError::NoRoom { range, limit }));
    }
    let state = m.model.private(m.space);
    assert!(state.heap_bytes() <= limit);
    // What was refused has changed nothing.
    assert!(state.iter().eq((0..100).map(|n| page(n * CHUNK))));
}

#[test]
fn where_the_state_is_at_its_limit_what_is_private_can_be_private_again() {
    let (mut m, bar) = machine();
    m.model.set_state_limit(m.space, CHUNK_BYTES);
    m.convert_at(bar, 0).unwrap();
    m.convert_at(bar, 0).unwrap();
    // The same bitmap.
    m.convert_at(bar, CHUNK - 2 * PAGE_SIZE).unwrap();
    // One page in it, and one in the next.
    m.convert_at(bar, CHUNK - PAGE_SIZE).unwrap();
    let both = bytes(CHUNK - PAGE_SIZE, 2 * u128::from(PAGE_SIZE));
    let state = PageState::Private;
    assert!(m.model.set_page_state(m.space, both, state).is_err());
    assert!(!m.model.private(m.space).covers(both));
}

#[test]
fn what_nothing_lies_at_can_be_made_shared_to_make_room() {
    let (mut m, bar) = machine();
    m.model.set_state_limit(m.space, CHUNK_BYTES);
    m.convert_at(bar, 0).unwrap();
    assert!(m.convert_at(bar, CHUNK).is_err());
    assert!(m.model.has_room(m.space, page(CHUNK)).is_err());
    // The BAR is no longer there.
    let (space, shared) = (m.space, PageState::Shared);
    m.model.set_page_state(space, page(0), shared).unwrap();
    assert_eq!(m.model.has_room(m.space, page(CHUNK)), Ok(()));
    m.convert_at(bar, CHUNK).unwrap();
    assert!(m.model.private(m.space).iter().eq([page(CHUNK)]));
}

#[test]
fn no_choice_of_pages_to_be_shared_takes_the_state_over_its_limit() {
    // 1 GiB that is private as a whole takes next to nothing, but could take
    // more: that counts.
    let mut m = Machine::new();
    let gib = 64 * CHUNK;
    m.put(guest_memfd_ram("ram", gib, GuestMemfdSides::Private), 0);
    let (space, all) = (m.space, bytes(0, gib.into()));
    let limit = PageSet::MAX_BYTES_PER_TIB / 1024;
    assert_eq!(limit, 64 * CHUNK_BYTES);
    m.model.set_state_limit(space, limit - 1);
    let refused = m.model.set_page_state(space, all, PageState::Private);
    assert!(matches!(refused, Err(StateError::NoRoom { .. })));
    m.model.set_state_limit(space, limit);
    let private = PageState::Private;
    m.model.set_page_state(space, all, private).unwrap();
    assert!(m.model.private(space).heap_bytes() < 64);
    for chunk in 0..64 {
        let (range, shared) = (page(chunk * CHUNK), PageState::Shared);
        m.model.set_page_state(space, range, shared).unwrap();
    }
    let bytes = m.model.private(space).heap_bytes();
    assert!(limit / 2 < bytes && bytes <= limit, "{bytes}");
    assert_eq!(m.model.validate(), Ok(()));
}
