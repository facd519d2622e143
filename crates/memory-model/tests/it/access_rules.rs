// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which device accesses carry out the guest's, compared with memory that is
//! read and written byte by byte.

use memory_model::{AccessError, AccessRule, AccessRules, Endianness, Piece, Sizes};
use proptest::prelude::*;

const ENDS: [Endianness; 2] = [Endianness::Little, Endianness::Big];

fn sizes(min: u8, max: u8) -> Sizes {
    Sizes::new(min, max).unwrap()
}

fn every_sizes() -> impl Iterator<Item = Sizes> {
    (0..=9).flat_map(|min| (0..=9).filter_map(move |max| Sizes::new(min, max)))
}

/// Each piece as offset, size and mask.
fn pieces(rules: AccessRules, offset: u64, size: usize) -> Vec<(u64, u8, u64)> {
    let plan = rules.plan(offset, size).unwrap();
    plan.map(|p| (p.offset(), p.size(), p.mask())).collect()
}

#[track_caller]
fn refused(rules: AccessRules, offset: u64, size: usize, rule: AccessRule) {
    let expected = AccessError { offset, size, rule };
    assert_eq!(rules.plan(offset, size).unwrap_err(), expected);
}

#[test]
fn sizes_are_powers_of_two_in_order() {
    let all: Vec<_> = every_sizes().map(|s| (s.min(), s.max())).collect();
    assert_eq!(
        all,
        [
            (1, 1),
            (1, 2),
            (1, 4),
            (1, 8),
            (2, 2),
            (2, 4),
            (2, 8),
            (4, 4),
            (4, 8),
            (8, 8),
        ]
    );
    assert_eq!(Sizes::new(1, 16), None);
    assert_eq!(Sizes::new(128, 128), None);
}

#[test]
fn what_kvm_brings_of_an_access_that_crosses_a_page_is_carried_out_if_unaligned_is_valid() {
    // 8 bytes, 3 of them before the end of a page.
    for (offset, size) in [(0xffd, 3), (0x1000, 5)] {
        refused(AccessRules::new(), offset, size, AccessRule::Aligned);
    }
    let rules = AccessRules::new().with_valid_unaligned(true);
    assert_eq!(
        pieces(rules, 0xffd, 3),
        [(0xffd, 1, 0xff), (0xffe, 2, 0xffff)]
    );
    assert_eq!(
        pieces(rules, 0x1000, 5),
        [(0x1000, 4, 0xffff_ffff), (0x1004, 1, 0xff)]
    );
}

#[test]
fn a_wider_access_passes_the_end_of_a_region_of_an_odd_size() {
    // The last 2 of 6 bytes: the device is asked for 4.
    let rules = AccessRules::new().with_implemented(sizes(4, 4));
    assert_eq!(pieces(rules, 4, 2), [(4, 4, 0xffff)]);
}

#[test]
fn by_default_eight_aligned_bytes_are_two_accesses_of_four() {
    let rules = AccessRules::default();
    assert_eq!(pieces(rules, 3, 1), [(3, 1, 0xff)]);
    assert_eq!(pieces(rules, 4, 4), [(4, 4, 0xffff_ffff)]);
    assert_eq!(
        pieces(rules, 8, 8),
        [(8, 4, 0xffff_ffff), (12, 4, 0xffff_ffff)]
    );
    refused(rules, 2, 4, AccessRule::Aligned);
    refused(rules, 0, 3, AccessRule::Aligned);
}

#[test]
fn a_device_that_can_gets_the_access_as_it_is() {
    let rules = AccessRules::new().with_implemented(Sizes::ALL);
    for size in [1, 2, 4, 8] {
        let plan = rules.plan(0x38, size).unwrap();
        let seen: Vec<_> = plan.map(|p| (p.offset(), p.size().into())).collect();
        assert_eq!(seen, [(0x38, size)]);
    }
}

#[test]
fn what_is_valid_is_checked_before_what_is_implemented() {
    let valid = sizes(2, 4);
    let rules = AccessRules::new()
        .with_valid(valid)
        .with_implemented(Sizes::ALL);
    refused(rules, 0, 1, AccessRule::Sizes(valid));
    refused(rules, 0, 8, AccessRule::Sizes(valid));
    refused(rules, 1, 8, AccessRule::Sizes(valid));
    refused(rules, 1, 2, AccessRule::Aligned);
    assert_eq!(
        rules.plan(0x10, 8).unwrap_err().to_string(),
        "an access of 8 bytes at offset 0x10: only accesses of 2 to 4 bytes are valid"
    );
}

#[test]
fn no_access_is_empty_or_too_wide_or_wraps() {
    let rules = AccessRules::new().with_valid_unaligned(true);
    refused(rules, 0, 0, AccessRule::OneToEight);
    refused(rules, 0, 9, AccessRule::OneToEight);
    refused(rules, 0, 256 + 4, AccessRule::OneToEight);
    refused(rules, u64::MAX, usize::MAX, AccessRule::OneToEight);
    refused(rules, u64::MAX, 2, AccessRule::Wraps);
    refused(rules, u64::MAX - 6, 8, AccessRule::Wraps);
    assert_eq!(pieces(rules, u64::MAX, 1), [(u64::MAX, 1, 0xff)]);
}

#[test]
fn a_smaller_access_than_implemented_is_part_of_an_aligned_wider_one() {
    for unaligned in [false, true] {
        let little = AccessRules::new()
            .with_implemented(sizes(4, 8))
            .with_implemented_unaligned(unaligned);
        let big = little.with_endianness(Endianness::Big);
        assert_eq!(pieces(little, 5, 1), [(4, 4, 0xff00)]);
        assert_eq!(pieces(big, 5, 1), [(4, 4, 0xff_0000)]);
        assert_eq!(pieces(little, 6, 2), [(4, 4, 0xffff_0000)]);
        assert_eq!(pieces(big, 6, 2), [(4, 4, 0xffff)]);
        assert_eq!(
            pieces(little, u64::MAX, 1),
            [(u64::MAX - 3, 4, 0xff00_0000)]
        );
    }
}

#[test]
fn an_unaligned_access_is_split_only_for_a_device_that_cannot() {
    let splits = AccessRules::new().with_valid_unaligned(true);
    let whole = splits.with_implemented_unaligned(true);
    assert_eq!(pieces(whole, 3, 4), [(3, 4, 0xffff_ffff)]);
    assert_eq!(
        pieces(splits, 3, 4),
        [(3, 1, 0xff), (4, 2, 0xffff), (6, 1, 0xff)]
    );
    assert_eq!(
        pieces(splits.with_implemented(sizes(4, 4)), 3, 4),
        [(0, 4, 0xff00_0000), (4, 4, 0x00ff_ffff)]
    );
}

#[test]
fn the_rest_of_an_access_that_crosses_a_page_is_unaligned() {
    let rules = AccessRules::new();
    refused(rules, 0x1000, 5, AccessRule::Aligned);
    assert_eq!(
        pieces(rules.with_valid_unaligned(true), 0x1000, 5),
        [(0x1000, 4, 0xffff_ffff), (0x1004, 1, 0xff)]
    );
}

#[test]
fn the_first_piece_is_the_low_half_or_the_high_half_of_the_value() {
    let rules = AccessRules::new();
    let halves = |rules: AccessRules| -> Vec<u64> {
        let plan = rules.plan(0, 8).unwrap();
        let split = plan.split_write(0x0102_0304_0506_0708);
        split.map(|(_, bits)| bits).collect()
    };
    assert_eq!(halves(rules), [0x0506_0708, 0x0102_0304]);
    let big = rules.with_endianness(Endianness::Big);
    assert_eq!(halves(big), [0x0102_0304, 0x0506_0708]);
}

#[test]
fn what_a_device_returns_beyond_its_size_is_ignored() {
    let rules = AccessRules::new().with_implemented(sizes(1, 2));
    for end in ENDS {
        let plan = rules.with_endianness(end).plan(0, 4).unwrap();
        assert_eq!(plan.combine_read(|_| u64::MAX), 0xffff_ffff);
    }
}

#[test]
fn bytes_and_numbers_go_both_ways() {
    assert_eq!(Endianness::Little.value(&[1, 2, 3]), 0x03_02_01);
    assert_eq!(Endianness::Big.value(&[1, 2, 3]), 0x01_02_03);
    for end in ENDS {
        let mut bytes = [0xaa; 10];
        end.fill(&mut bytes[..5], 0xff_01_02_03_04_05);
        assert_eq!(end.value(&bytes[..5]), 0x01_02_03_04_05);
        assert_eq!(bytes[5], 0xaa);
        end.fill(&mut bytes, u64::MAX);
        assert_eq!(bytes.iter().filter(|b| **b == 0).count(), 2);
        assert_eq!((end.value(&[]), end.value(&[1; 20])), (0, u64::MAX / 255));
    }
}

/// A device that is plain memory at `base`, and knows what may be asked of it.
struct Plain {
    rules: AccessRules,
    base: u64,
    bytes: [u8; 32],
}

impl Plain {
    /// The bytes of a piece; not one outside the memory, not one that the
    /// rules forbid.
    fn bytes(&mut self, piece: &Piece) -> &mut [u8] {
        let implemented = self.rules.implemented();
        assert!(piece.size().is_power_of_two());
        assert!((implemented.min()..=implemented.max()).contains(&piece.size()));
        let aligned = piece.offset() % u64::from(piece.size()) == 0;
        assert!(aligned || self.rules.implemented_unaligned());
        // It is never wider than it has to be.
        assert!(!piece.is_partial() || (piece.size() == implemented.min() && aligned));
        let at = usize::try_from(piece.offset() - self.base).unwrap();
        &mut self.bytes[at..at + usize::from(piece.size())]
    }

    fn read(&mut self, piece: &Piece) -> u64 {
        let size = usize::from(piece.size());
        let mut all = [0xee; 8];
        match self.rules.endianness() {
            Endianness::Little => {
                all[..size].copy_from_slice(self.bytes(piece));
                u64::from_le_bytes(all)
            }
            Endianness::Big => {
                all[8 - size..].copy_from_slice(self.bytes(piece));
                u64::from_be_bytes(all)
            }
        }
    }

    fn write(&mut self, piece: &Piece, value: u64) {
        let size = usize::from(piece.size());
        let end = self.rules.endianness();
        let bytes = self.bytes(piece);
        match end {
            Endianness::Little => bytes.copy_from_slice(&value.to_le_bytes()[..size]),
            Endianness::Big => bytes.copy_from_slice(&value.to_be_bytes()[8 - size..]),
        }
        let wider = size < 8 && value >> (8 * size) != 0;
        assert!(!wider, "{value:#x} in {size} bytes");
    }
}

fn is_valid(rules: &AccessRules, offset: u64, size: usize) -> bool {
    let exists = [1, 2, 3, 4, 5, 6, 7, 8].contains(&size);
    let fits = u128::from(offset) + size as u128 <= 1 << 64;
    let (min, max) = (rules.valid().min(), rules.valid().max());
    let aligned = match size {
        1 => true,
        2 | 4 | 8 => offset % size as u64 == 0,
        _ => false,
    };
    exists
        && fits
        && usize::from(min) <= size
        && size <= usize::from(max)
        && (aligned || rules.valid_unaligned())
}

/// Reads `size` bytes at `offset` and then writes `data` there: under any
/// rules, that does to plain memory what it does byte by byte.
fn check(rules: AccessRules, base: u64, start: usize, memory: [u8; 32], data: &[u8]) {
    let offset = base + start as u64;
    let plan = rules.plan(offset, data.len());
    assert_eq!(plan.is_ok(), is_valid(&rules, offset, data.len()));
    let Ok(plan) = plan else { return };
    assert!(plan.clone().count() <= 8);
    let end = rules.endianness();
    let mut device = Plain {
        rules,
        base,
        bytes: memory,
    };

    let mut seen = vec![0; data.len()];
    let value = plan.clone().combine_read(|piece| device.read(piece));
    end.fill(&mut seen, value);
    for (i, byte) in seen.iter().enumerate() {
        assert_eq!(*byte, memory[start + i]);
    }

    let mut expected = memory;
    for (i, byte) in data.iter().enumerate() {
        expected[start + i] = *byte;
    }
    for (piece, bits) in plan.split_write(end.value(data)) {
        assert_eq!(bits & !piece.mask(), 0);
        let bits = match piece.is_partial() {
            true => piece.merge(device.read(&piece), bits),
            false => bits,
        };
        device.write(&piece, bits);
    }
    assert_eq!(device.bytes, expected);
}

#[test]
fn plain_memory_is_plain_memory_under_all_rules() {
    let memory: [u8; 32] = core::array::from_fn(|i| 0x10 + u8::try_from(i).unwrap());
    let data: [u8; 9] = core::array::from_fn(|i| 0xf0 + u8::try_from(i).unwrap());
    for (valid, implemented) in every_sizes().flat_map(|v| every_sizes().map(move |i| (v, i))) {
        for bits in 0..8_u8 {
            let rules = AccessRules::new()
                .with_valid(valid)
                .with_implemented(implemented)
                .with_valid_unaligned(bits & 1 != 0)
                .with_implemented_unaligned(bits & 2 != 0)
                .with_endianness(ENDS[usize::from(bits >> 2)]);
            for size in 0..=data.len() {
                for start in 0..16 {
                    check(rules, 0, start, memory, &data[..size]);
                    check(rules, u64::MAX - 31, 16 + start, memory, &data[..size]);
                }
            }
        }
    }
}

fn any_sizes() -> impl Strategy<Value = Sizes> {
    proptest::sample::select(every_sizes().collect::<Vec<_>>())
}

fn any_rules() -> impl Strategy<Value = AccessRules> {
    let bools = (any::<bool>(), any::<bool>(), any::<bool>());
    (any_sizes(), any_sizes(), bools).prop_map(|(valid, implemented, (a, b, big))| {
        AccessRules::new()
            .with_valid(valid)
            .with_implemented(implemented)
            .with_valid_unaligned(a)
            .with_implemented_unaligned(b)
            .with_endianness(ENDS[usize::from(big)])
    })
}

proptest! {
    #[test]
    fn any_bytes_anywhere_are_what_they_are_byte_by_byte(
        rules in any_rules(),
        base in prop_oneof![Just(0), Just(u64::MAX / 32), any::<u64>().prop_map(|b| b / 32)],
        start in 0..24_usize,
        memory in any::<[u8; 32]>(),
        data in proptest::collection::vec(any::<u8>(), 0..10),
    ) {
        check(rules, base * 32, start, memory, &data);
    }

    #[test]
    fn no_access_panics(rules in any_rules(), offset: u64, size: usize, low in 0..20_usize) {
        for offset in [offset, u64::MAX - offset % 16, offset % 16] {
            for size in [size, low] {
                let plan = rules.plan(offset, size);
                prop_assert_eq!(plan.is_ok(), is_valid(&rules, offset, size));
                if let Ok(plan) = plan {
                    let written = plan.clone().split_write(offset).count();
                    prop_assert!((1..=8).contains(&written));
                    plan.combine_read(|piece| offset ^ piece.offset());
                }
            }
        }
    }
}
