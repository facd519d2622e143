// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Accepted pages do not change.

use crate::common;

use common::{EVERYTHING, Log, Machine, Recorder, bytes, host, memory, private_mmio, ram, take};
use memory_model::{
    AddrRange, CommitError, FileSlice, PageState, PrivateMmio, Region, RegionId, StateError,
    Transaction, TreeError,
};

const BAR: u64 = 0xe000_0000;
const SIZE: u64 = 0x4000;
const LAST_PAGE: u64 = u64::MAX - 0xfff;

/// A machine with a private BAR in a bridge's window, next to some RAM.
struct Accepted {
    m: Machine,
    window: RegionId,
    bar: RegionId,
    ram: RegionId,
}

impl Accepted {
    /// Nothing is accepted yet.
    fn nothing() -> Self {
        let mut m = Machine::new();
        let window = m.put(Region::container("window", 0x10_0000), BAR);
        let bar = m.put_in(window, private_mmio("bar", SIZE), 0);
        let ram = m.put(ram("ram", 0x1000), 0);
        Self {
            m,
            window,
            bar,
            ram,
        }
    }

    /// `range` of the address space is accepted.
    fn range(range: AddrRange) -> Self {
        let mut it = Self::nothing();
        it.m.model.accept(it.m.space, range).unwrap();
        it
    }

    /// All of the BAR is accepted.
    fn all() -> Self {
        Self::range(bytes(BAR, SIZE.into()))
    }

    /// The change is refused because of `range`, and nothing has changed.
    #[track_caller]
    fn refuses(
        &mut self,
        range: AddrRange,
        steps: impl FnOnce(&mut Transaction<'_, ()>) -> Result<(), TreeError>,
    ) {
        let everything = |m: &Machine| m.everything(&[self.window, self.bar, self.ram]);
        let before = everything(&self.m);
        match self.m.try_change(steps) {
            Err(CommitError::Accepted { range: at, region }) => {
                assert_eq!((at, region.as_str()), (range, "bar"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(everything(&self.m), before);
    }
}

#[test]
fn an_accepted_bar_can_be_neither_moved_nor_hidden_nor_taken_out() {
    let mut a = Accepted::all();
    let (window, bar, root) = (a.window, a.bar, a.m.root);
    let all = bytes(BAR, SIZE.into());
    a.refuses(all, |t| t.move_to(bar, 0x1000));
    a.refuses(all, |t| t.move_to(bar, 0x8000));
    a.refuses(all, |t| t.set_enabled(bar, false));
    a.refuses(all, |t| t.unplace(bar));
    a.refuses(all, |t| {
        t.unplace(bar)?;
        t.remove(bar).map(drop)
    });
    // Nor can what is around it.
    a.refuses(all, |t| t.move_to(window, 0xf000_0000));
    a.refuses(all, |t| t.set_enabled(window, false));
    a.refuses(all, |t| t.unplace(window));
    a.refuses(all, |t| t.set_enabled(root, false));
}

#[test]
fn an_accepted_bar_cannot_be_covered() {
    let mut a = Accepted::all();
    let (window, root) = (a.window, a.m.root);
    let covered = bytes(BAR, SIZE.into());
    a.refuses(covered, |t| {
        let over = t.add(Region::mmio("over", 1))?;
        t.place(over, window, SIZE - 1, 1)
    });
    // The latest among equals covers it just as well.
    a.refuses(covered, |t| {
        let over = t.add(Region::reservation("over", EVERYTHING))?;
        t.place(over, root, 0, 0)
    });
}

#[test]
fn an_accepted_bar_cannot_become_read_only() {
    let mut a = Accepted::all();
    let (window, bar) = (a.window, a.bar);
    let all = bytes(BAR, SIZE.into());
    a.refuses(all, |t| t.set_readonly(bar, true));
    a.refuses(all, |t| t.set_readonly(window, true));
}

#[test]
fn an_accepted_bar_cannot_be_backed_by_something_else() {
    let mut a = Accepted::all();
    let (window, bar) = (a.window, a.bar);
    let all = bytes(BAR, SIZE.into());
    let file =
        |offset| FileSlice::new(std::sync::Arc::new(std::io::stdin()), offset, SIZE).unwrap();
    let others = [
        Region::private_mmio("other", PrivateMmio::new(file(0x10_0000))),
        // Even with the same bytes: another region is another device's.
        Region::private_mmio("same", PrivateMmio::new(file(0))),
        Region::ram("ram", memory(SIZE)),
        Region::device_ram("shared", host(SIZE)),
        Region::mmio("trapped", SIZE.into()),
    ];
    for other in others {
        a.refuses(all, |t| {
            let other = t.add(other)?;
            t.unplace(bar)?;
            t.place(other, window, 0, 0)
        });
    }
    // The same region, but other bytes of it.
    a.refuses(all, |t| {
        t.unplace(bar)?;
        let shifted = t.add(Region::alias("shifted", bar, 0x1000, SIZE.into()))?;
        t.place(shifted, window, 0, 0)
    });
}

#[test]
fn the_same_bytes_may_be_placed_there_in_another_way() {
    let mut a = Accepted::all();
    let (window, bar) = (a.window, a.bar);
    let before = a.m.view();
    a.m.change(|t| {
        t.unplace(bar)?;
        let same = t.add(Region::alias("same", bar, 0, SIZE.into()))?;
        t.place(same, window, 0, 0)
    });
    assert_eq!(a.m.view(), before);
}

#[test]
fn changes_elsewhere_are_none_of_acceptances_business() {
    let mut a = Accepted::all();
    let (window, ram) = (a.window, a.ram);
    a.m.change(|t| t.move_to(ram, 0x1_0000));
    a.m.change(|t| {
        let below = t.add(Region::mmio("below", EVERYTHING))?;
        t.place(below, window, 0, -1)
    });
    a.m.change(|t| t.unplace(ram));
    assert_eq!(
        a.m.view(),
        [
            "e0000000-e0003fff bar rw",
            "e0004000-e00fffff below @4000 trap",
        ]
    );
}

#[test]
fn the_whole_run_is_fixed_that_holds_accepted_bytes() {
    let second_page = bytes(BAR + 0x1000, 0x1000);
    let mut a = Accepted::range(second_page);
    let (window, bar) = (a.window, a.bar);
    a.refuses(second_page, |t| t.move_to(bar, 0x1_0000));
    // A memslot has no parts: to cut the run would unmap the accepted page.
    a.refuses(second_page, |t| {
        let over = t.add(Region::mmio("over", 0x1000))?;
        t.place(over, window, 0x3000, 1)
    });
}

#[test]
fn nothing_can_join_a_run_that_holds_accepted_bytes() {
    let mut a = Accepted::nothing();
    let (window, bar) = (a.window, a.bar);
    a.m.change(|t| {
        let over = t.add(Region::mmio("over", 0x1000))?;
        t.place(over, window, 0x3000, 1)
    });
    let over = *a.m.model.tree().children(window).unwrap().first().unwrap();
    let accepted = bytes(BAR, 0x1000);
    a.m.model.accept(a.m.space, accepted).unwrap();
    a.refuses(accepted, |t| t.unplace(over));
    a.refuses(accepted, |t| t.unplace(bar));
}

#[test]
fn acceptance_counts_in_its_own_space_only() {
    let mut a = Accepted::nothing();
    let (root, window, bar) = (a.m.root, a.window, a.bar);
    let part = bytes(0, 0x1000);
    let separate = a.m.add(Region::container("separate", EVERYTHING));
    let alias = Region::alias("alias", window, 0, part.size());
    let alias = a.m.put_in(separate, alias, 0);
    let other = a.m.model.add_space("separate", separate).unwrap();
    a.m.model.accept(other, part).unwrap();
    assert_eq!(a.m.model.accepted(a.m.space).iter().count(), 0);

    // The space that has not accepted it may lose it.
    a.m.change(|t| t.set_enabled(root, false));
    assert!(a.m.view().is_empty());
    // The one that has may not, whichever way it would be lost.
    a.refuses(part, |t| t.unplace(alias));
    a.refuses(part, |t| t.set_enabled(bar, false));
}

#[test]
fn what_the_guest_gives_back_can_change() {
    let mut a = Accepted::all();
    let (bar, space) = (a.bar, a.m.space);
    a.m.model.give_back(space, bytes(BAR, 0x1000)).unwrap();
    a.refuses(bytes(BAR + 0x1000, 0x3000), |t| t.unplace(bar));
    a.m.model.give_back(space, AddrRange::ALL).unwrap();
    assert!(a.m.model.accepted(space).iter().next().is_none());
    a.m.change(|t| t.unplace(bar));
}

#[test]
fn a_page_that_becomes_shared_is_given_back() {
    let mut a = Accepted::all();
    let space = a.m.space;
    let page = bytes(BAR, 0x1000);
    a.m.model
        .set_page_state(space, page, PageState::Shared)
        .unwrap();
    assert_eq!(a.m.model.accepted(space).within(page).next(), None);
    let rest = bytes(BAR + 0x1000, 0x3000);
    assert!(a.m.model.accepted(space).covers(rest));
}

#[test]
fn a_revocation_frees_the_range_and_notifies_every_listener_in_order() {
    let mut a = Accepted::range(bytes(BAR, 0x2000));
    let (bar, space) = (a.bar, a.m.space);
    a.m.model
        .accept(space, bytes(BAR + 0x3000, 0x1000))
        .unwrap();
    let log = Log::default();
    for (name, priority) in [("late", 1), ("early", 0)] {
        let listener = Recorder::new(name, &log);
        a.m.model.add_listener(space, priority, listener).unwrap();
    }
    take(&log);
    let lost = a.m.model.revoke(space, bytes(BAR + 0x1800, 0x10_0000));
    // Half a page cannot stay accepted.
    let pages = [bytes(BAR + 0x1000, 0x1000), bytes(BAR + 0x3000, 0x1000)];
    assert!(lost.iter().eq(pages));
    let ranges = "revoked {0xe0001000..=0xe0001fff, 0xe0003000..=0xe0003fff}";
    assert_eq!(
        take(&log),
        [format!("early {ranges}"), format!("late {ranges}")]
    );
    a.refuses(bytes(BAR, 0x1000), |t| t.unplace(bar));
    let lost = a.m.model.revoke(space, AddrRange::ALL);
    assert!(lost.iter().eq([bytes(BAR, 0x1000)]));
    a.m.change(|t| t.unplace(bar));
}

#[test]
fn a_revocation_of_what_was_not_accepted_notifies_no_listener() {
    let mut a = Accepted::range(bytes(BAR, 0x1000));
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    let space = a.m.space;
    a.m.model.add_listener(space, 0, listener).unwrap();
    take(&log);
    let lost = a.m.model.revoke(space, bytes(BAR + 0x1000, 0x1000));
    assert!(lost.is_empty() && take(&log).is_empty());
}

/// What was asked for, where the first wrong byte is, and what is there.
fn wrong(range: AddrRange, at: u64, found: &str, needed: &'static str) -> Result<(), StateError> {
    let found = found.into();
    Err(StateError::WrongKind {
        range,
        at,
        found,
        needed,
    })
}

#[test]
fn only_private_mmio_can_be_accepted() {
    let mut a = Accepted::nothing();
    let space = a.m.space;
    let needed = "private MMIO";
    let cases = [
        (bytes(0, 0x2000), 0, "ram"),
        (bytes(0x1000, 0x1000), 0x1000, "nothing"),
        (bytes(BAR, 0x5000), BAR + SIZE, "nothing"),
        (bytes(BAR - 0x1000, 0x2000), BAR - 0x1000, "nothing"),
        (AddrRange::ALL, 0, "ram"),
        (bytes(LAST_PAGE, 0x1000), LAST_PAGE, "nothing"),
    ];
    for (range, at, found) in cases {
        let refused = a.m.model.accept(space, range);
        assert_eq!(refused, wrong(range, at, found, needed));
    }
    let accepted = a.m.model.accepted(space);
    assert_eq!(accepted.iter().count(), 0);
}

#[test]
fn the_last_page_of_the_space_can_be_accepted() {
    let mut a = Accepted::nothing();
    let bar = a.m.put(private_mmio("bar", 0x1000), LAST_PAGE);
    let page = bytes(LAST_PAGE, 0x1000);
    a.m.model.accept(a.m.space, page).unwrap();
    a.refuses(page, |t| t.unplace(bar));
}

#[test]
fn two_bars_next_to_each_other_can_be_accepted_at_once() {
    let mut a = Accepted::nothing();
    let (window, space, bar) = (a.window, a.m.space, a.bar);
    a.m.put_in(window, private_mmio("bar2", SIZE), SIZE);
    let both = bytes(BAR, 2 * u128::from(SIZE));
    a.m.model.accept(space, both).unwrap();
    assert!(a.m.model.accepted(space).covers(both));
    a.refuses(bytes(BAR, SIZE.into()), |t| t.unplace(bar));
}
