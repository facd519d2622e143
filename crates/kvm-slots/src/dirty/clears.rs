// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Splits a dirty log into calls of `KVM_CLEAR_DIRTY_LOG`.
//!
//! The rule of `kvm_clear_dirty_log_protect` (virt/kvm/kvm_main.c): the first
//! page is a multiple of 64, and so is the number of pages unless the call
//! reaches the end of the slot.

/// Words of one call: 2^18 pages, 1 GiB of pages of 4 KiB. KVM holds its MMU lock
/// for the whole call, and vCPUs that fault wait for it.
const WORDS_PER_CALL: usize = 1 << 12;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clear<'a> {
    /// The first page, a multiple of 64.
    pub(crate) first_page: u64,
    /// The number of pages: a multiple of 64, or up to the last page of the slot.
    pub(crate) num_pages: u32,
    /// The pages to clear.
    pub(crate) bitmap: &'a [u64],
}

/// The calls that clear all bits of `log`, the log of a slot of `pages` pages.
/// Stretches without a dirty page are skipped.
pub(crate) fn clears(log: &[u64], pages: u64) -> impl Iterator<Item = Clear<'_>> {
    let calls = log.chunks(WORDS_PER_CALL).enumerate();
    calls.filter_map(move |(number, words)| {
        let from = words.iter().position(|word| *word != 0)?;
        let to = words.iter().rposition(|word| *word != 0)? + 1;
        let first_page = (number * WORDS_PER_CALL + from) as u64 * 64;
        let num_pages = ((to - from) as u64 * 64).min(pages.checked_sub(first_page)?);
        Some(Clear {
            first_page,
            num_pages: u32::try_from(num_pages).ok()?,
            bitmap: &words[from..to],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The pages that a kernel clears; `None` if it refuses the call.
    fn dumb_kernel(clear: &Clear<'_>, pages: u64) -> Option<BTreeSet<u64>> {
        let (first, num) = (clear.first_page, u64::from(clear.num_pages));
        let inside = first <= pages && num <= pages - first;
        if first % 64 != 0 || !inside || (num % 64 != 0 && first + num != pages) {
            return None;
        }
        assert_eq!(clear.bitmap.len() as u64, num.div_ceil(64));
        let word = |n: u64| clear.bitmap[usize::try_from(n / 64).unwrap()];
        let is_set = |n: &u64| word(*n) >> (n % 64) & 1 == 1;
        Some((0..num).filter(is_set).map(|n| first + n).collect())
    }

    proptest! {
        // Slots large enough for several calls.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn each_set_bit_is_cleared_once_by_calls_that_kvm_accepts(
            pages in 1_usize..700_000,
            dirty in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let mut log = vec![0_u64; pages.div_ceil(64)];
            for page in dirty.iter().map(|n| n % pages) {
                log[page / 64] |= 1 << (page % 64);
            }
            let dirty: BTreeSet<u64> = dirty.into_iter().map(|n| (n % pages) as u64).collect();
            let (mut cleared, pages) = (BTreeSet::new(), pages as u64);
            for clear in clears(&log, pages) {
                let these = dumb_kernel(&clear, pages).expect("a call by the rules");
                prop_assert!(!these.is_empty());
                for page in these {
                    prop_assert!(cleared.insert(page), "page {} twice", page);
                }
            }
            prop_assert_eq!(cleared, dirty);
        }
    }

    #[test]
    fn a_clean_log_needs_no_call() {
        assert_eq!(clears(&[0; 9000], 9000 * 64 - 3).count(), 0);
    }

    #[test]
    fn a_slot_needs_few_calls_however_its_dirty_pages_are_scattered() {
        // 256 GiB with a dirty page in every 64.
        let log = vec![1; 1 << 20];
        assert_eq!(clears(&log, (1 << 26) - 5).count(), 256);
    }
}
