// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The classifier against a deliberately dumb one, which goes through the BAR byte by byte, with an
//! array in place of intervals and a second look at the whole page of every byte.

use crate::common;

use common::{Device, assert_tiles, end, in_bar, span};
use proptest::prelude::*;
use vfio_private::{
    Access, AddrRange, ClassifyError, MsixPart, MsixParts, MsixPlacement, Neighbour, PageSize,
    PbaPolicy, Reason, ReportedRange, SparseArea, SubPagePolicy, TeeKind, TeeMsixPolicy,
};

/// All that is known of one byte.
#[derive(Clone, Copy, Default)]
struct Byte {
    table: bool,
    pba: bool,
    offered: bool,
    tee: bool,
    non_tee: bool,
    /// In a TEE range that is marked for the table, or for the PBA.
    tee_table: bool,
    tee_pba: bool,
}

fn paint(bytes: &mut [Byte], offset: u64, size: u64, with: impl Fn(&mut Byte)) {
    let start = usize::try_from(offset).unwrap();
    let end = start + usize::try_from(size).unwrap();
    bytes[start..end].iter_mut().for_each(with);
}

fn bytes_of(device: &Device) -> Vec<Byte> {
    let mut bytes = vec![Byte::default(); usize::try_from(device.bar.size()).unwrap()];
    if let Some(msix) = device.msix {
        for (place, is_table) in [(msix.table, true), (msix.pba, false)] {
            if place.bar == device.bar.index() {
                paint(
                    &mut bytes,
                    place.range.start(),
                    place.range.size_u64().unwrap(),
                    |byte| {
                        if is_table {
                            byte.table = true
                        } else {
                            byte.pba = true
                        }
                    },
                );
            }
        }
    }
    let whole = vec![SparseArea {
        offset: 0,
        size: device.bar.size(),
    }];
    for area in device.region.sparse.as_ref().unwrap_or(&whole) {
        paint(&mut bytes, area.offset, area.size, |byte| {
            byte.offered = true
        });
    }
    for range in device.report.iter().flatten() {
        paint(
            &mut bytes,
            range.range.start(),
            range.range.size_u64().unwrap(),
            |byte| match range.kind {
                TeeKind::Tee => {
                    byte.tee = true;
                    byte.tee_table |= range.msix.table;
                    byte.tee_pba |= range.msix.pba;
                }
                TeeKind::NonTee => byte.non_tee = true,
            },
        );
    }
    bytes
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Contradiction,
    Misplaced,
    NotSeparable { page: u64 },
}

/// Access and reasons, byte by byte.
type Answer = Vec<(Access, Vec<Reason>)>;

fn oracle(device: &Device) -> Result<Answer, Refusal> {
    let bytes = bytes_of(device);
    if bytes.iter().any(|byte| byte.tee && byte.non_tee) {
        return Err(Refusal::Contradiction);
    }
    for range in device.report.iter().flatten() {
        let start = usize::try_from(range.range.start()).unwrap();
        let end = usize::try_from(end(range.range)).unwrap();
        let table = bytes[start..end].iter().any(|byte| byte.table);
        let pba = bytes[start..end].iter().any(|byte| byte.pba);
        if (range.msix.table && !table) || (range.msix.pba && !pba) {
            return Err(Refusal::Misplaced);
        }
    }
    let is_left = device.policy.tee_msix() == TeeMsixPolicy::Private;
    let guest_table = is_left && bytes.iter().all(|byte| !byte.table || byte.tee_table);
    let guest_pba = is_left && bytes.iter().all(|byte| !byte.pba || byte.tee_pba);
    let trap_pba = device.policy.pba() == PbaPolicy::Trap;
    let page_size = usize::try_from(device.page.bytes()).unwrap();
    let mut answer = Answer::new();
    for (n, page) in bytes.chunks(page_size).enumerate() {
        let sub_page = page.len() < page_size;
        let table = page.iter().any(|byte| byte.table) && !guest_table;
        let pba = page.iter().any(|byte| byte.pba) && trap_pba && !guest_pba;
        let offered = page.iter().all(|byte| byte.offered);
        let all_tee = page.iter().all(|byte| byte.tee) && !sub_page;
        let any_unreported = page.iter().any(|byte| !byte.tee && !byte.non_tee);
        if page.iter().any(|byte| byte.tee) && (!all_tee || table || pba) {
            return Err(Refusal::NotSeparable {
                page: (n * page_size) as u64,
            });
        }
        for byte in page {
            let reported = byte.tee || byte.non_tee;
            let unreported = device.report.is_some() && !reported;
            if byte.tee {
                let table = guest_table && byte.tee_table;
                let pba = guest_pba && byte.tee_pba && trap_pba;
                let mut why = vec![Reason::ReportedTee];
                if table || pba {
                    why.push(Reason::MsixLeftToGuest);
                }
                answer.push((Access::Private, why));
                continue;
            }
            let carve = device.policy.msix() == MsixPlacement::Carve;
            if unreported && !(carve && (table || pba)) {
                answer.push((Access::Blocked, vec![Reason::Unreported]));
                continue;
            }
            let mapped = device.region.mmap;
            let expand = device.policy.sub_page() == SubPagePolicy::Expand;
            let mut why = vec![
                (unreported, Reason::Unreported),
                (carve && table, Reason::MsixTable),
                (carve && pba, Reason::MsixPba),
                (
                    mapped && table && !device.region.msix_mappable,
                    Reason::MsixNotMappable,
                ),
                (!mapped, Reason::RegionNotMappable),
                (mapped && !offered, Reason::OutsideSparseAreas),
                (byte.non_tee && any_unreported, Reason::PageHasUnreported),
                (sub_page && !expand, Reason::SubPageBar),
            ];
            why.retain(|&(holds, _)| holds);
            let mut access = Access::Trap;
            if why.is_empty() {
                access = Access::Shared;
                why.push((
                    true,
                    if byte.non_tee {
                        Reason::ReportedNonTee
                    } else {
                        Reason::NoReport
                    },
                ));
                if sub_page {
                    why.push((true, Reason::ExpandedBar));
                }
            }
            answer.push((access, why.into_iter().map(|(_, reason)| reason).collect()));
        }
    }
    Ok(answer)
}

/// A range in a BAR of `size` bytes. Most are aligned, or hardly any report could be honoured.
fn range_in(size: u64) -> impl Strategy<Value = AddrRange> {
    let grain = prop::sample::select(vec![0x4000, 0x4000, 0x1000, 0x1000, 0x800, 8, 1]);
    (grain, 0..size, 0..size).prop_map(move |(grain, a, b)| {
        let start = a.min(b) / grain * grain;
        let end = ((a.max(b) / grain + 1) * grain).min(size);
        span(start, end - start)
    })
}

/// MSI-X structures are small against the BAR.
fn structure_in(size: u64) -> impl Strategy<Value = AddrRange> {
    (0..size, 1..=64_u64).prop_map(move |(offset, length)| {
        let offset = offset / 8 * 8;
        span(offset, (length * 16).min(size - offset))
    })
}

/// One kind per 16 KiB slot, so that many reports agree with themselves; or no rule at all.
fn report_in(size: u64) -> impl Strategy<Value = Vec<ReportedRange>> {
    let kind = prop::sample::select(vec![TeeKind::Tee, TeeKind::NonTee, TeeKind::NonTee]);
    let free = (range_in(size), kind.clone()).prop_map(|(span, kind)| ReportedRange {
        range: span,
        kind,
        msix: MsixParts::NONE,
    });
    let slot = 0x4000.min(size);
    let slots = usize::try_from(size / slot).unwrap();
    let part = prop::option::of((kind, prop::option::of(range_in(slot))));
    let slotted = prop::collection::vec(part, slots).prop_map(move |parts| {
        let with_start = (0..).step_by(0x4000).zip(parts);
        with_start
            .filter_map(|(start, part)| {
                let (kind, within) = part?;
                let within = match kind {
                    TeeKind::Tee => None,
                    TeeKind::NonTee => within,
                };
                let within = within.unwrap_or(span(0, slot));
                Some(ReportedRange {
                    range: span(start + within.start(), within.size_u64().unwrap()),
                    kind,
                    msix: MsixParts::NONE,
                })
            })
            .collect()
    });
    prop_oneof![3 => slotted, 1 => prop::collection::vec(free, 0..3)]
}

fn mark(device: &mut Device, how: u8) {
    let (index, msix) = (device.bar.index(), device.msix);
    for (n, range) in device.report.iter_mut().flatten().enumerate() {
        let holds = |part| {
            let place = msix.map(|msix| msix.place(part));
            place.is_some_and(|place| place.bar == index && place.range.overlaps(range.range))
        };
        range.msix = MsixParts {
            table: (how == 1 && holds(MsixPart::Table)) || (how == 2 && n == 0),
            pba: how == 1 && holds(MsixPart::Pba),
        };
    }
}

pub fn device() -> impl Strategy<Value = Device> {
    (11..=16_u32).prop_flat_map(|bit| {
        let size = 1 << bit;
        let place = || (0..4_u8, structure_in(size));
        let sparse = prop::option::weighted(0.4, prop::collection::vec(range_in(size), 0..4));
        let flags = (prop::bool::weighted(0.9), any::<bool>());
        let policy = prop::array::uniform4(any::<bool>());
        // No marks, marks that are true, or marks wherever.
        let marks = prop::sample::select(vec![0_u8, 1, 1, 1, 1, 1, 2]);
        (
            Just(Device::with_bar(size)),
            prop::option::of((place(), place())),
            (sparse, flags),
            prop::option::weighted(0.7, report_in(size)),
            prop::sample::select(vec![PageSize::Size4K, PageSize::Size16K]),
            (policy, marks),
        )
            .prop_map(
                |(mut device, msix, (sparse, flags), report, page, (policy, marks))| {
                    if let Some(((table_bar, table), (pba_bar, pba))) = msix {
                        let table = in_bar(table_bar / 2, table.start(), table.size_u64().unwrap());
                        let pba = in_bar(pba_bar / 2, pba.start(), pba.size_u64().unwrap());
                        device = device.msix(table, pba);
                    }
                    if let Some(areas) = sparse {
                        let areas: Vec<_> = areas
                            .iter()
                            .map(|s| (s.start(), s.size_u64().unwrap()))
                            .collect();
                        device = device.sparse(&areas);
                    }
                    (device.region.mmap, device.region.msix_mappable) = flags;
                    if policy[0] {
                        device.policy = device.policy.with_pba(PbaPolicy::Map);
                    }
                    if policy[1] {
                        device.policy = device.policy.with_sub_page(SubPagePolicy::Expand);
                    }
                    if policy[2] {
                        device.policy = device.policy.with_tee_msix(TeeMsixPolicy::Private);
                    }
                    if policy[3] {
                        device.policy = device.policy.with_msix(MsixPlacement::Relocate);
                    }
                    device.report = report;
                    mark(&mut device, marks);
                    device.page(page)
                },
            )
    })
}

/// The same answer for every byte, or an error for the same cause and the same page.
fn assert_agreement(device: &Device) {
    let expected = oracle(device);
    match device.classify() {
        Ok(pieces) => {
            assert_tiles(device.bar, &pieces);
            let spread: Answer = pieces
                .iter()
                .flat_map(|piece| {
                    let of_byte = (piece.access(), piece.reasons().iter().collect());
                    vec![of_byte; usize::try_from(piece.size()).unwrap()]
                })
                .collect();
            // Not assert_eq: a failure would print every byte.
            let expected = expected.unwrap();
            let differs = (0..spread.len()).find(|&n| spread[n] != expected[n]);
            if let Some(n) = differs {
                panic!(
                    "byte {n:#x} is {:?}, should be {:?}",
                    spread[n], expected[n]
                );
            }
        }
        Err(ClassifyError::ReportContradicts { tee, non_tee, .. }) => {
            assert_eq!(expected, Err(Refusal::Contradiction));
            assert!(tee.overlaps(non_tee));
        }
        Err(ClassifyError::ReportMisplacesMsix { range, .. }) => {
            assert_eq!(expected, Err(Refusal::Misplaced));
            let ranges = device.report.as_deref().unwrap_or_default();
            assert!(ranges.iter().any(|reported| reported.range == range));
        }
        Err(ClassifyError::PrivateNotSeparable { private, page, .. }) => {
            assert_eq!(expected, Err(Refusal::NotSeparable { page: page.start() }));
            assert!(private.overlaps(page));
        }
        Err(ClassifyError::MsixLocked {
            private,
            page,
            can_be_left,
            ..
        }) => {
            let page_at = page.start();
            assert_eq!(expected, Err(Refusal::NotSeparable { page: page_at }));
            assert!(private.overlaps(page));
            assert_eq!(device.policy.tee_msix(), TeeMsixPolicy::Refuse);
            let mut left = device.clone();
            left.policy = left.policy.with_tee_msix(TeeMsixPolicy::Private);
            let still = match left.classify() {
                Err(ClassifyError::PrivateNotSeparable { neighbour, .. }) => neighbour,
                _ => return,
            };
            let is_msix = matches!(still, Neighbour::Msix(..));
            assert!(!(can_be_left && is_msix), "{still}");
        }
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_byte_has_the_access_and_the_reasons_that_a_dumb_classifier_gives_it(
        device in device(),
    ) {
        assert_agreement(&device);
    }

    #[test]
    fn pieces_that_are_mapped_are_whole_host_pages_unless_the_bar_was_expanded(
        device in device(),
    ) {
        for piece in device.classify().unwrap_or_default() {
            let whole = device.page.is_aligned(piece.offset())
                && device.page.is_aligned(end(piece.range()));
            let expanded = piece.reasons().contains(Reason::ExpandedBar);
            prop_assert!(!piece.kvm_mappable() || whole || expanded, "{}", piece);
        }
    }

    #[test]
    fn the_order_of_areas_and_ranges_makes_no_difference(device in device()) {
        let mut turned = device.clone();
        turned.region.sparse.iter_mut().for_each(|areas| areas.reverse());
        turned.report.iter_mut().for_each(|ranges| ranges.reverse());
        prop_assert_eq!(device.classify().ok(), turned.classify().ok());
    }
}

/// The generator is of no use if it hardly ever makes what it is meant to test.
#[test]
fn the_generated_devices_have_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut refused, mut seen) = (0, std::collections::HashSet::new());
    for _ in 0..500 {
        let device = device().new_tree(&mut runner).unwrap().current();
        match device.classify() {
            Ok(pieces) => seen.extend(pieces.iter().flat_map(|p| p.reasons().iter())),
            Err(_) => refused += 1,
        }
    }
    assert!((25..250).contains(&refused), "{refused} of 500 refused");
    // All but that of an I/O BAR.
    assert_eq!(seen.len(), 13, "{seen:?}");
}
