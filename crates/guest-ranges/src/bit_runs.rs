// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs of set bits of a bitmap.

use core::ops::Range;

const WORD: u64 = u64::BITS as u64;

/// The runs of set bits among the first `bits` bits, by number; none touches the next.
pub(crate) fn bit_runs(bitmap: &[u64], bits: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let end = bits.min((bitmap.len() as u64).saturating_mul(WORD));
    let mut at = 0;
    core::iter::from_fn(move || {
        let start = next(bitmap, at, end, true);
        at = next(bitmap, start, end, false);
        (start < at).then_some(start..at)
    })
}

/// The first bit from `from` on that is set (or, with `is_set` false, is not); `end` if
/// there is none before.
fn next(bitmap: &[u64], from: u64, end: u64, is_set: bool) -> u64 {
    let mut at = from;
    while at < end {
        let word = usize::try_from(at / WORD).ok().and_then(|n| bitmap.get(n));
        let Some(word) = word else { return end };
        let wanted = if is_set { *word } else { !*word };
        match wanted >> (at % WORD) {
            0 => at = (at / WORD + 1) * WORD,
            more => return (at + u64::from(more.trailing_zeros())).min(end),
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_set_bits_and_never_touch(
            words in prop::collection::vec(
                prop_oneof![any::<u64>(), Just(0), Just(!0), Just(!0 << 63), Just(1)],
                0..6,
            ),
            bits in 0_u64..400,
        ) {
            let runs: Vec<_> = bit_runs(&words, bits).collect();
            let is_set = |n: &u64| {
                let word = words.get(usize::try_from(n / 64).unwrap());
                word.is_some_and(|word| word >> (n % 64) & 1 == 1)
            };
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            let seen: Vec<u64> = runs.into_iter().flatten().collect();
            prop_assert_eq!(seen, (0..bits).filter(is_set).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_number_of_bits_may_be_asked_for() {
        assert!(bit_runs(&[!0; 2], u64::MAX).eq(core::iter::once(0..128)));
        assert_eq!(bit_runs(&[], u64::MAX).count(), 0);
    }
}
