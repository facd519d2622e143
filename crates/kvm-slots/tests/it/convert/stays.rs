// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Private pages stay where their memory is.

use std::sync::Arc;

use guest_ranges::{AddrRange, PageState};
use kvm_slots::convert::{Home, PrivateMoves, PrivateStays};
use kvm_slots::{FileSlice, HostMemory};
use memory_model::{CommitError, GuestMemfdSides, Memory, MemoryModel, Region, RegionId, SpaceId};

use crate::common::PAGE;

struct Machine {
    model: MemoryModel,
    space: SpaceId,
    root: RegionId,
    /// Four pages with a guest_memfd, and one without.
    ram: RegionId,
    other: RegionId,
}

fn bytes(pages: u64) -> HostMemory {
    HostMemory::placeholder(pages * PAGE).unwrap()
}

fn with_guest_memfd(pages: u64, sides: GuestMemfdSides) -> Memory {
    let file = Arc::new(std::fs::File::open("/dev/null").unwrap());
    let file = FileSlice::new(file, 0, pages * PAGE).unwrap();
    Memory::with_guest_memfd(bytes(pages), file, sides).unwrap()
}

fn machine(home: Home, sides: GuestMemfdSides) -> Machine {
    let memory = with_guest_memfd(4, sides);
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).unwrap();
    let ram = t.add(Region::ram("ram", memory)).unwrap();
    let other = Region::ram("other", Memory::host_only(bytes(1)));
    let other = t.add(other).unwrap();
    t.place(ram, root, 0, 0).unwrap();
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    let stays = Arc::new(PrivateStays::new(home));
    model.add_listener(space, -1, stays).unwrap();
    Machine {
        model,
        space,
        root,
        ram,
        other,
    }
}

fn pages(page: u64, count: u64) -> AddrRange {
    AddrRange::new(page * PAGE, u128::from(count * PAGE)).unwrap()
}

impl Machine {
    fn set(&mut self, page: u64, state: PageState) {
        let set = self.model.set_page_state(self.space, pages(page, 1), state);
        set.unwrap();
    }

    /// Makes a page private whose memory is then removed.
    fn leave_private(&mut self, page: u64) {
        let memory = with_guest_memfd(1, GuestMemfdSides::Private);
        let mut t = self.model.transaction();
        let id = t.add(Region::ram("removed", memory)).unwrap();
        t.place(id, self.root, page * PAGE, 0).unwrap();
        t.commit().unwrap();
        self.set(page, PageState::Private);
        let mut t = self.model.transaction();
        t.unplace(id).unwrap();
        t.commit().unwrap();
    }

    fn move_ram(&mut self, page: u64) -> Option<AddrRange> {
        let mut t = self.model.transaction();
        t.move_to(self.ram, page * PAGE).unwrap();
        refused(t.commit())
    }

    fn hide(&mut self, page: u64) -> Option<AddrRange> {
        let mut t = self.model.transaction();
        t.place(self.other, self.root, page * PAGE, 1).unwrap();
        refused(t.commit())
    }
}

/// The pages that refused a transaction.
fn refused(result: Result<(), CommitError>) -> Option<AddrRange> {
    match result {
        Ok(()) => None,
        Err(CommitError::Refused { source, .. }) => {
            Some(source.downcast_ref::<PrivateMoves>().unwrap().pages)
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn files_with_private_pages_do_not_move_and_nothing_hides_their_pages() {
    for sides in [GuestMemfdSides::Both, GuestMemfdSides::Private] {
        let mut m = machine(Home::FileAttributes, sides);
        m.set(2, PageState::Private);
        assert_eq!(m.move_ram(8), Some(pages(2, 1)));
        assert_eq!(m.hide(2), Some(pages(2, 1)));
        // The run is cut, and the private page stays.
        assert_eq!(m.hide(1), None);
        m.set(2, PageState::Shared);
        assert_eq!(m.move_ram(8), None);
    }
}

#[test]
fn memory_in_place_moves_only_if_the_same_pages_are_private_there() {
    for home in [Home::VmAttributes, Home::Platform] {
        let mut m = machine(home, GuestMemfdSides::Both);
        m.set(1, PageState::Private);
        assert_eq!(m.move_ram(8), Some(pages(0, 4)));
        m.leave_private(9);
        assert_eq!(m.move_ram(8), None);
        // The state stays at the address, so memory can be removed.
        assert_eq!(m.hide(9), None);
    }
}

#[test]
fn memory_with_two_sides_moves_where_addresses_have_the_state() {
    for home in [Home::VmAttributes, Home::Platform] {
        let mut m = machine(home, GuestMemfdSides::Private);
        m.set(1, PageState::Private);
        assert_eq!(m.move_ram(8), None);
        assert_eq!(m.move_ram(0), None);
    }
}

#[test]
fn memory_in_place_that_moves_with_a_part_hidden_is_compared_by_its_bytes() {
    for home in [Home::VmAttributes, Home::Platform] {
        let mut m = machine(home, GuestMemfdSides::Both);
        m.set(2, PageState::Private);
        let move_and_hide = |m: &mut Machine| {
            let mut t = m.model.transaction();
            t.move_to(m.ram, 8 * PAGE).unwrap();
            t.place(m.other, m.root, 8 * PAGE, 1).unwrap();
            refused(t.commit())
        };
        // Three pages are in both views. One of them is private, and not at its new address.
        assert_eq!(move_and_hide(&mut m), Some(pages(1, 3)));
        m.leave_private(10);
        assert_eq!(move_and_hide(&mut m), None);
        // And back: the whole memory, of which three pages were visible.
        m.set(10, PageState::Shared);
        assert_eq!(m.move_ram(0), Some(pages(9, 3)));
    }
}
