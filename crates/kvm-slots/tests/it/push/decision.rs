// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decision on a request, against a map that has every page on its own.

use crate::common;

use common::{PAGE, file};
use kvm_slots::PageSize;
use kvm_slots::push::{
    Offer, OfferError, Offers, PushedRange, Rejected, ValidateExit, ValidateRequest,
};
use proptest::prelude::*;

/// The number of guest-physical pages in the random tests.
const PAGES: usize = 16;

fn request(vdev_id: u64, gpa: u64, pages: u64, pa_base: u64) -> ValidateRequest {
    let exit = ValidateExit {
        flags: 0,
        nr: 1,
        vdev_id,
        gpa_base: gpa,
        gpa_top: gpa + pages * PAGE,
        pa_base,
    };
    ValidateRequest::from_exit(&exit, 1, PageSize::Size4K).expect("a good request")
}

/// Offers of 4 pages of device 1 at page 4, and of device 2 at page 8.
fn two_devices() -> Offers {
    let mut offers = Offers::new();
    for (vdev_id, gpa) in [(1, 4 * PAGE), (2, 8 * PAGE)] {
        let (size, file) = (4 * PAGE, file(1000, 0));
        let range = PushedRange { gpa, size, file };
        offers.offer(Offer::of(&range, vdev_id)).unwrap();
    }
    offers
}

#[test]
fn two_pieces_in_any_order_must_be_at_consecutive_physical_addresses() {
    let pieces = [(4 * PAGE, 100 * PAGE), (6 * PAGE, 102 * PAGE)];
    for [first, second] in [[pieces[0], pieces[1]], [pieces[1], pieces[0]]] {
        let mut offers = two_devices();
        let ask = |(gpa, pa)| request(1, gpa, 2, pa);
        // A check alone decides nothing for later requests.
        assert_eq!(offers.check(&ask((first.0, 50 * PAGE))), Ok(()));
        assert_eq!(offers.accept(&ask(first)), Ok(()));
        for wrong in [second.1 - PAGE, second.1 + PAGE, first.1] {
            let why = Err(Rejected::OtherAddress(second.1));
            assert_eq!(offers.accept(&ask((second.0, wrong))), why);
        }
        assert_eq!(offers.accept(&ask(second)), Ok(()));
        assert_eq!(offers.check(&ask(first)), Ok(()), "again");
        let known: Vec<_> = offers.iter().map(|offer| offer.pa).collect();
        assert_eq!(known, [Some(100 * PAGE), None]);
    }
}

#[test]
fn a_request_is_inside_one_range_of_its_device() {
    let offers = two_devices();
    let at = |vdev_id, page, pages| request(vdev_id, page * PAGE, pages, 100 * PAGE);
    for (ask, why) in [
        (at(1, 3, 1), Rejected::NotOffered(3 * PAGE)),
        (at(1, 3, 2), Rejected::NotOffered(3 * PAGE)),
        (at(1, 12, 1), Rejected::NotOffered(12 * PAGE)),
        (at(1, 7, 2), Rejected::Beyond(8 * PAGE)),
        (at(2, 7, 2), Rejected::Beyond(8 * PAGE)),
        (at(2, 11, 2), Rejected::Beyond(12 * PAGE)),
        (at(2, 4, 1), Rejected::OtherDevice(1)),
        (at(3, 8, 1), Rejected::OtherDevice(2)),
    ] {
        assert_eq!(offers.check(&ask), Err(why));
    }
    assert_eq!(offers.check(&at(1, 4, 4)), Ok(()));
    assert_eq!(offers.check(&at(2, 11, 1)), Ok(()));
}

#[test]
fn a_known_physical_address_holds_for_the_first_request_too() {
    let mut offers = Offers::new();
    let bar = Offer {
        vdev_id: 1,
        gpa: 0,
        size: 4 * PAGE,
        pa: Some(100 * PAGE),
    };
    offers.offer(bar).unwrap();
    let why = Err(Rejected::OtherAddress(101 * PAGE));
    assert_eq!(offers.check(&request(1, PAGE, 1, 100 * PAGE)), why);
    assert_eq!(offers.check(&request(1, PAGE, 1, 101 * PAGE)), Ok(()));
}

#[test]
fn a_withdrawn_range_is_rejected_and_keeps_its_place_until_it_is_removed() {
    let mut offers = two_devices();
    let ask = request(1, 4 * PAGE, 1, 100 * PAGE);
    assert_eq!(offers.accept(&ask), Ok(()));
    assert!(offers.withdraw(4 * PAGE) && !offers.withdraw(5 * PAGE));
    assert_eq!(offers.check(&ask), Err(Rejected::Withdrawn));
    let new = Offer {
        vdev_id: 3,
        gpa: 7 * PAGE,
        size: PAGE,
        pa: None,
    };
    assert_eq!(offers.offer(new), Err(OfferError::Overlaps(4 * PAGE)));
    assert!(offers.reinstate(4 * PAGE));
    let other = request(1, 4 * PAGE, 1, 101 * PAGE);
    let why = Err(Rejected::OtherAddress(100 * PAGE));
    assert_eq!(offers.check(&other), why, "it has not forgotten");
    let old = offers.remove(4 * PAGE).unwrap();
    assert_eq!((old.vdev_id, old.pa), (1, Some(100 * PAGE)));
    assert_eq!(offers.offer(new), Ok(()));
}

/// One step of a random test. Places are pages.
#[derive(Clone, Copy, Debug)]
enum Step {
    Offer(u64, u64, u64, Option<u64>),
    Withdraw(u64),
    Reinstate(u64),
    Remove(u64),
    Check(ValidateRequest),
    Accept(ValidateRequest),
}

/// Pages near both ends of the physical addresses.
fn pa() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u64..12).prop_map(|n| n * PAGE),
        1 => (9_u64..20).prop_map(|n| (n * PAGE).wrapping_neg()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place = || 0..PAGES as u64;
    let offer = (0_u64..2, place(), 0_u64..6, proptest::option::of(pa()));
    let asked = (0_u64..2, place(), 1_u64..6, pa())
        .prop_map(|(vdev, gpa, pages, pa)| request(vdev, gpa * PAGE, pages, pa));
    let asked = asked.boxed();
    prop_oneof![
        3 => offer.prop_map(|(vdev, gpa, pages, pa)| Step::Offer(vdev, gpa, pages, pa)),
        1 => place().prop_map(Step::Withdraw),
        1 => place().prop_map(Step::Reinstate),
        1 => place().prop_map(Step::Remove),
        3 => asked.clone().prop_map(Step::Check),
        6 => asked.prop_map(Step::Accept),
    ]
}

/// What the VMM means by one page.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// The first page of the offer.
    of: u64,
    vdev_id: u64,
    withdrawn: bool,
    /// Known from the VMM, or from an accepted request for this page.
    pa: Option<i128>,
}

/// Pages beyond those of the guest: offers may end there.
type Map = [Option<Page>; PAGES + 8];

/// The number of the page at an address.
fn index(address: u64) -> usize {
    usize::try_from(address / PAGE).expect("few pages")
}

fn bytes(page: usize) -> i128 {
    page as i128 * i128::from(PAGE)
}

/// The decision, page by page.
fn decide(map: &Map, ask: &ValidateRequest) -> Result<(), Rejected> {
    let first = index(ask.gpa());
    let pages = first..index(ask.end());
    let Some(offer) = map[first] else {
        return Err(Rejected::NotOffered(ask.gpa()));
    };
    let same = |page: usize| map[page].is_some_and(|page| page.of == offer.of);
    for page in pages {
        if !same(page) {
            return Err(Rejected::Beyond(page as u64 * PAGE));
        }
    }
    if offer.vdev_id != ask.vdev_id() {
        return Err(Rejected::OtherDevice(offer.vdev_id));
    }
    if offer.withdrawn {
        return Err(Rejected::Withdrawn);
    }
    let whole = || (0..map.len()).filter(|page| same(*page));
    for page in whole() {
        let there = i128::from(ask.pa()) + bytes(page) - bytes(first);
        if there < 0 || there + i128::from(PAGE) > i128::from(u64::MAX) {
            return Err(Rejected::ImpossibleAddress);
        }
    }
    for page in whole() {
        let known = map[page].and_then(|page| page.pa);
        if let Some(known) = known.map(|pa| pa - bytes(page) + bytes(first))
            && known != i128::from(ask.pa())
        {
            let known = u64::try_from(known).expect("an address");
            return Err(Rejected::OtherAddress(known));
        }
    }
    Ok(())
}

fn offered(map: &mut Map, new: Offer) -> Result<(), OfferError> {
    let first = index(new.gpa);
    let pages = first..first + index(new.size);
    if pages.is_empty() {
        return Err(OfferError::Impossible);
    }
    if let Some(other) = map[pages.clone()].iter().rev().flatten().next() {
        return Err(OfferError::Overlaps(other.of * PAGE));
    }
    for page in pages {
        map[page] = Some(Page {
            of: first as u64,
            vdev_id: new.vdev_id,
            withdrawn: false,
            pa: new.pa.map(|pa| i128::from(pa) + bytes(page) - bytes(first)),
        });
    }
    Ok(())
}

/// Does something to each page of the offer that starts here.
fn each(map: &mut Map, of: u64, does: impl FnMut(&mut Option<Page>)) -> bool {
    let pages = map
        .iter_mut()
        .filter(|page| page.is_some_and(|page| page.of == of));
    pages.map(does).count() > 0
}

fn withdraw(page: &mut Option<Page>, withdrawn: bool) {
    if let Some(page) = page {
        page.withdrawn = withdrawn;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn random_requests_are_decided_as_page_by_page(steps in prop::collection::vec(step(), 1..40)) {
        let (mut offers, mut map): (Offers, Map) = (Offers::new(), [None; PAGES + 8]);
        for step in steps {
            match step {
                Step::Offer(vdev_id, gpa, pages, pa) => {
                    let new = Offer { vdev_id, gpa: gpa * PAGE, size: pages * PAGE, pa };
                    prop_assert_eq!(offers.offer(new), offered(&mut map, new));
                }
                Step::Withdraw(gpa) => {
                    let any = each(&mut map, gpa, |page| withdraw(page, true));
                    prop_assert_eq!(offers.withdraw(gpa * PAGE), any);
                }
                Step::Reinstate(gpa) => {
                    let any = each(&mut map, gpa, |page| withdraw(page, false));
                    prop_assert_eq!(offers.reinstate(gpa * PAGE), any);
                }
                Step::Remove(gpa) => {
                    let any = each(&mut map, gpa, |page| *page = None);
                    prop_assert_eq!(offers.remove(gpa * PAGE).is_some(), any);
                }
                Step::Check(ask) => prop_assert_eq!(offers.check(&ask), decide(&map, &ask)),
                Step::Accept(ask) => {
                    let expected = decide(&map, &ask);
                    prop_assert_eq!(offers.accept(&ask), expected);
                    let first = index(ask.gpa());
                    let asked = map.iter_mut().enumerate().skip(first);
                    for (page, known) in asked.take(index(ask.end()) - first) {
                        if let (Ok(()), Some(known)) = (expected, known) {
                            known.pa = Some(i128::from(ask.pa()) + bytes(page) - bytes(first));
                        }
                    }
                }
            }
        }
    }
}
