// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device and a kernel say about BARs, and the pieces that a guest gets.

use vfio_private::areas::BarAreas;
use vfio_private::config::{BarRegister, ConfigSpace, EaResource};
use vfio_private::region_info::RegionInfo;
use vfio_private::{
    Access, AddrRange, Bar, BarIndex, BarInput, BarKind, InterfaceReport, Msix, MsixPlacement,
    OffsetRule, PageSize, PbaPolicy, Piece, Policy, Region, ReportedRange, SubPagePolicy, TeeKind,
    TeeMsixPolicy, classify,
};

use crate::input::Input;

/// PCI configuration space, after four bytes that choose sizes of BARs, the
/// host's page size and a policy.
pub fn config_space(data: &[u8]) -> bool {
    let (choices, space) = data.split_at_checked(4).unwrap_or((data, &[]));
    let mut input = Input::new(choices);
    let (page, policy) = (page_size(&mut input), policy(&mut input));
    let bits = input.byte();
    let Ok(config) = ConfigSpace::new(space) else {
        return false;
    };
    let chain = config.capabilities();
    let msix = match (config.msix(), chain) {
        (Ok(msix), Ok(chain)) => {
            // Every fourth byte after the header.
            assert!(chain.len() <= 48);
            assert_eq!(chain.iter().any(|c| c.id == 0x11), msix.is_some());
            msix
        }
        (msix, Err(error)) => {
            assert_eq!(msix, Err(error));
            return false;
        }
        (Err(_), Ok(_)) => return false,
    };
    let Ok(registers) = config.bars() else {
        return false;
    };
    assert!(registers.len() <= 6 && registers.is_sorted_by_key(|bar| bar.index));
    assert_allocated(config, &registers);
    for register in registers {
        let index = register.index;
        let bar = match register.size {
            Some(size) => Bar::new(index, register.kind, size)
                .unwrap_or_else(|error| panic!("{register:?}: {error}")),
            None => bar(index, register.kind, bits.wrapping_add(index.get() * 37)),
        };
        assert_bar(&Facts {
            bar,
            region: &Region::mappable(),
            msix,
            report: None,
            page,
            policy,
        });
    }
    true
}

/// All BARs of Enhanced Allocation have a size, and no others do.
fn assert_allocated(config: ConfigSpace<'_>, registers: &[BarRegister]) {
    // The header alone has no capabilities.
    let entries = config.enhanced_allocation().unwrap_or_default();
    assert!(entries.len() <= 47);
    let mut allocated = Vec::new();
    for entry in entries {
        assert!(!entry.resource.to_string().is_empty());
        if let EaResource::Bar(bar) = entry.resource {
            allocated.push(bar);
        }
    }
    allocated.sort_by_key(|bar| bar.index);
    let sized = registers.iter().filter(|bar| bar.size.is_some());
    assert!(sized.eq(&allocated), "{registers:?} and {allocated:?}");
}

/// A VFIO region info with its capabilities, after eight bytes that choose an
/// MSI-X table, a size, the host's page size and a policy.
pub fn region_info(data: &[u8]) -> bool {
    let (choices, bytes) = data.split_at_checked(8).unwrap_or((data, &[]));
    let mut input = Input::new(choices);
    let (page, policy) = (page_size(&mut input), policy(&mut input));
    let (bits, msix) = (input.byte(), msix(&mut input));
    let Ok(info) = RegionInfo::parse(bytes) else {
        return false;
    };
    let areas = info.region.sparse.as_ref().map_or(0, Vec::len);
    assert!(areas * 16 <= bytes.len());
    let Ok(index) = BarIndex::new(info.index.to_le_bytes()[0] % 6) else {
        return false;
    };
    // The size in the region info, if a BAR can have it.
    let said = Bar::new(index, BarKind::Memory, info.size);
    assert_bar(&Facts {
        bar: said.unwrap_or_else(|_| bar(index, BarKind::Memory, bits)),
        region: &info.region,
        msix,
        report: None,
        page,
        policy,
    });
    true
}

/// A TDISP interface report, after twelve bytes that choose its device, the
/// host's page size and a policy.
pub fn report(data: &[u8]) -> bool {
    let (choices, bytes) = data.split_at_checked(12).unwrap_or((data, &[]));
    let mut input = Input::new(choices);
    let (page, policy) = (page_size(&mut input), policy(&mut input));
    let rule = input.pick(&[OffsetRule::Relative, OffsetRule::Masked]);
    let msix = msix(&mut input);
    let kind = |io: bool| if io { BarKind::Io } else { BarKind::Memory };
    let indices = [0, 2, 4, 5].map(BarIndex::new).into_iter().flatten();
    let bars: Vec<Bar> = indices
        .map(|index| bar(index, kind(input.one_in(8)), input.byte()))
        .collect();
    let Ok(report) = InterfaceReport::parse(bytes) else {
        return false;
    };
    let size = 16 + 16 * report.ranges.len() + 4 + report.device_specific.len();
    assert!((size..=size + 3).contains(&bytes.len()));
    crate::bars::reported(bytes);
    let Ok(placed) = report.place(&bars, rule) else {
        return false;
    };
    let count: usize = bars.iter().map(|bar| placed.of(bar.index()).len()).sum();
    let left_out = placed.left_out();
    assert!(left_out.iter().all(|left| left.range.id() > 5));
    assert_eq!(
        count + left_out.len(),
        report.ranges.len(),
        "each range is in a BAR or left out"
    );
    for &bar in &bars {
        assert_bar(&Facts {
            bar,
            region: &Region::mappable(),
            msix,
            report: Some(placed.of(bar.index())),
            page,
            policy,
        });
    }
    true
}

/// The inputs of `classify`.
struct Facts<'a> {
    bar: Bar,
    region: &'a Region,
    msix: Option<Msix>,
    report: Option<&'a [ReportedRange]>,
    page: PageSize,
    policy: Policy,
}

/// Classifies with the policy and with the default, and checks the pieces.
fn assert_bar(facts: &Facts<'_>) {
    for policy in [facts.policy, Policy::new()] {
        let input = BarInput::new(facts.bar, facts.region)
            .with_msix(facts.msix)
            .with_report(facts.report);
        let areas = BarAreas::<16>::carve_bounded(&input, facts.page, policy);
        if let Ok(pieces) = classify(&input, facts.page, policy) {
            assert_tiles(facts.bar, &pieces);
            assert_eq!(areas.is_ok(), pieces.len() <= 16);
            assert!(areas.is_ok_and(|areas| areas.all() == pieces) || pieces.len() > 16);
            let areas = facts.region.sparse.as_ref().map_or(0, Vec::len);
            let ranges = facts.report.map_or(0, <[_]>::len);
            assert!(pieces.len() <= 5 + 2 * areas + 6 * ranges);
            assert_private_is_reported(facts, &pieces);
            assert_shared_is_offered(facts, &pieces);
            if policy == Policy::new() {
                assert_table_is_not_shared(facts, &pieces);
            }
        }
    }
}

/// The pieces tile the BAR from its first byte to its last.
fn assert_tiles(bar: Bar, pieces: &[Piece]) {
    let mut end = 0;
    for piece in pieces {
        assert_eq!(piece.offset(), end);
        assert!(!piece.reasons().is_empty() && !piece.to_string().is_empty());
        end = end_of(piece.range());
    }
    assert_eq!(end, bar.size());
    let key = |piece: &Piece| (piece.access(), piece.reasons());
    let two = pieces.windows(2).find(|two| key(&two[0]) == key(&two[1]));
    assert_eq!(two, None, "two pieces are one");
}

/// Exactly the ranges that a report lists as private are private.
fn assert_private_is_reported(facts: &Facts<'_>, pieces: &[Piece]) {
    let of_kind = |kind: TeeKind, range: AddrRange| {
        let ranges = facts.report.into_iter().flatten();
        ranges
            .filter(move |range| range.kind == kind)
            .filter_map(move |reported| reported.range.intersect(range))
            .collect::<Vec<_>>()
    };
    for piece in pieces {
        let tee = covered(of_kind(TeeKind::Tee, piece.range()));
        match piece.access() {
            Access::Private => {
                assert_eq!(tee, piece.size(), "{piece}");
                let whole = |offset| facts.page.is_aligned(offset);
                assert!(
                    whole(piece.offset()) && whole(end_of(piece.range())),
                    "{piece}"
                );
            }
            _ => assert_eq!(tee, 0, "{piece}"),
        }
        if piece.access() == Access::Shared && facts.report.is_some() {
            let non_tee = covered(of_kind(TeeKind::NonTee, piece.range()));
            assert_eq!(non_tee, piece.size(), "{piece}");
        }
    }
}

/// The offset just behind a range of a BAR.
fn end_of(range: AddrRange) -> u64 {
    range.last() + 1
}

/// How many bytes the ranges have together.
fn covered(mut ranges: Vec<AddrRange>) -> u64 {
    ranges.sort();
    let (mut end, mut bytes) = (0, 0);
    for range in ranges {
        bytes += end_of(range).saturating_sub(range.start().max(end));
        end = end_of(range).max(end);
    }
    bytes
}

/// Only pages that VFIO lets userspace map are shared.
fn assert_shared_is_offered(facts: &Facts<'_>, pieces: &[Piece]) {
    for piece in pieces.iter().filter(|p| p.access() == Access::Shared) {
        assert!(
            facts.region.mmap && facts.bar.kind() == BarKind::Memory,
            "{piece}"
        );
        let Some(areas) = &facts.region.sparse else {
            continue;
        };
        let ranges = areas
            .iter()
            .filter_map(|area| AddrRange::new(area.offset, area.size.into()));
        let offered = ranges.filter_map(|area| area.intersect(piece.range()));
        assert_eq!(covered(offered.collect()), piece.size(), "{piece}");
    }
}

/// No page with a byte of the table is mapped, privately or shared.
fn assert_table_is_not_shared(facts: &Facts<'_>, pieces: &[Piece]) {
    let Some(msix) = facts.msix.filter(|m| m.table.bar == facts.bar.index()) else {
        return;
    };
    let page = facts.page.bytes();
    let table = msix.table.range;
    let start = table.start() / page * page;
    let end = end_of(table).next_multiple_of(page).min(facts.bar.size());
    for piece in pieces.iter().filter(|piece| piece.kvm_mappable()) {
        let apart = end_of(piece.range()) <= start || end <= piece.offset();
        assert!(apart, "{piece} and the table {}", table.dashed());
    }
}

/// Any size that a BAR can have.
fn bar(index: BarIndex, kind: BarKind, bits: u8) -> Bar {
    let size = 1_u64 << (bits % 64);
    Bar::new(index, kind, size).unwrap_or_else(|error| panic!("{error}"))
}

fn msix(input: &mut Input<'_>) -> Option<Msix> {
    let vectors = 1 + u16::from(input.byte());
    let [table, pba] = [input.byte(), input.byte()];
    if vectors == 1 {
        return None;
    }
    // The low bits choose a BAR, the others a multiple of a size that is larger
    // than most pages.
    let place = |byte: u8| {
        let index = BarIndex::new(byte & 3).ok()?;
        Some((index, u64::from(byte >> 2) * 0x808))
    };
    Msix::with_vectors(vectors, place(table)?, place(pba)?).ok()
}

fn page_size(input: &mut Input<'_>) -> PageSize {
    input.pick(&[PageSize::Size4K, PageSize::Size16K, PageSize::Size64K])
}

fn policy(input: &mut Input<'_>) -> Policy {
    let bits = input.byte();
    let mut policy = Policy::new();
    if bits & 1 != 0 {
        policy = policy.with_pba(PbaPolicy::Map);
    }
    if bits & 2 != 0 {
        policy = policy.with_sub_page(SubPagePolicy::Expand);
    }
    if bits & 4 != 0 {
        policy = policy.with_tee_msix(TeeMsixPolicy::Private);
    }
    if bits & 8 != 0 {
        policy = policy.with_msix(MsixPlacement::Relocate);
    }
    policy
}
