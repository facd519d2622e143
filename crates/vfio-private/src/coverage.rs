// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A set of bytes, kept as intervals: the classifier's only data structure.

use crate::span::Span;

/// A set of bytes as sorted spans that neither overlap nor touch.
///
/// Its memory follows the number of spans it was made from, never their size: a BAR of 2^40 bytes
/// costs what one of 2^12 bytes does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage(Vec<Span>);

impl Coverage {
    /// Every byte that at least one of `spans` holds. They may come in any order and overlap.
    pub(crate) fn of(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut sorted: Vec<Span> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut() {
                Some(last) if span.offset() <= last.end() => {
                    let end = last.end().max(span.end());
                    *last = Span::between(last.offset(), end).unwrap_or(*last);
                }
                _ => merged.push(span),
            }
        }
        Self(merged)
    }

    /// The spans in ascending order.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.0.iter().copied()
    }

    /// Every offset at which membership changes, in ascending order.
    pub(crate) fn edges(&self) -> impl Iterator<Item = u64> {
        self.spans().flat_map(|span| [span.offset(), span.end()])
    }

    /// Whether the byte at `offset` is in the set.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        let next = self.0.partition_point(|span| span.end() <= offset);
        self.0.get(next).is_some_and(|span| span.contains(offset))
    }

    /// Whether every byte of `window` is in the set.
    pub(crate) fn holds(&self, window: Span) -> bool {
        // Spans do not touch, so one of them must have all.
        self.first_overlapping(window)
            .is_some_and(|span| span.intersection(window) == Some(window))
    }

    /// The lowest span of the set that has a byte in `window`, whole.
    pub(crate) fn first_overlapping(&self, window: Span) -> Option<Span> {
        let next = self.0.partition_point(|span| span.end() <= window.offset());
        self.0
            .get(next)
            .copied()
            .filter(|span| span.overlaps(window))
    }

    /// The parts of `whole` that are in the set, in ascending order.
    pub(crate) fn within(&self, whole: Span) -> impl Iterator<Item = Span> {
        let first = self.0.partition_point(|span| span.end() <= whole.offset());
        let from_there = self.0[first..].iter();
        from_there.map_while(move |span| span.intersection(whole))
    }

    /// The bytes of `whole` that are not in the set.
    pub(crate) fn complement_in(&self, whole: Span) -> Self {
        let mut gaps = Vec::new();
        let mut from = whole.offset();
        for span in self.within(whole) {
            gaps.extend(Span::between(from, span.offset()));
            from = span.end();
        }
        gaps.extend(Span::between(from, whole.end()));
        Self(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(ranges: &[(u64, u64)]) -> Coverage {
        Coverage::of(
            ranges
                .iter()
                .map(|&(start, end)| Span::between(start, end).unwrap()),
        )
    }

    #[test]
    fn touching_nested_and_unsorted_spans_become_one() {
        assert_eq!(
            coverage(&[(8, 12), (0, 4), (4, 8), (1, 2)]).0,
            coverage(&[(0, 12)]).0
        );
    }

    #[test]
    fn a_complement_has_the_gaps_and_both_ends() {
        let whole = Span::between(0, 20).unwrap();
        let gaps = coverage(&[(2, 4), (10, 12)]).complement_in(whole);
        assert_eq!(gaps.0, coverage(&[(0, 2), (4, 10), (12, 20)]).0);
        assert_eq!(coverage(&[(0, 20)]).complement_in(whole).0, []);
        assert_eq!(coverage(&[]).complement_in(whole).0, [whole]);
    }

    #[test]
    fn a_byte_is_contained_from_the_first_to_the_last_of_a_span() {
        let set = coverage(&[(2, 4), (10, 12)]);
        let inside: Vec<u64> = (0..14).filter(|&byte| set.contains(byte)).collect();
        assert_eq!(inside, [2, 3, 10, 11]);
        let window = Span::between(4, 11).unwrap();
        assert_eq!(set.first_overlapping(window), Span::between(10, 12));
        assert_eq!(set.first_overlapping(Span::between(4, 10).unwrap()), None);
    }
}
