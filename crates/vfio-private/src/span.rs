// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A non-empty byte range that does not wrap.

use core::fmt;

use crate::error::InputError;

/// A range of bytes, as offset and size, that is never empty and never wraps around.
///
/// Offsets count from the start of the BAR. The end (offset plus size) fits a `u64`, so no sum of the
/// two needs a check once the span exists.
///
/// ```
/// use vfio_private::{InputError, Span};
///
/// let span = Span::new(0x2000, 0x210)?;
/// assert_eq!(span.end(), 0x2210);
/// assert_eq!(span.to_string(), "0x2000-0x220f");
/// assert_eq!(Span::new(0x2000, 0), Err(InputError::EmptySpan { offset: 0x2000 }));
/// # Ok::<(), InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    // Ordered by `start` first: sorting spans sorts them by offset.
    start: u64,
    end: u64,
}

impl Span {
    /// A span of `size` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`InputError::EmptySpan`] for a size of 0, [`InputError::SpanWraps`] if offset plus size
    /// does not fit a `u64`.
    pub const fn new(offset: u64, size: u64) -> Result<Self, InputError> {
        if size == 0 {
            return Err(InputError::EmptySpan { offset });
        }
        match offset.checked_add(size) {
            Some(end) => Ok(Self { start: offset, end }),
            None => Err(InputError::SpanWraps { offset, size }),
        }
    }

    /// The span from `start` up to but not including `end`; `None` if that holds no byte.
    pub(crate) const fn between(start: u64, end: u64) -> Option<Self> {
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// Where the span starts, in bytes.
    pub const fn offset(self) -> u64 {
        self.start
    }

    /// How many bytes the span holds; at least 1.
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// The offset just behind the last byte.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Whether the byte at `offset` is inside.
    pub const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The bytes that both spans hold; `None` if there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether the spans have a byte in common. Touching is not overlapping.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// First and last byte in hexadecimal, both inclusive, as in `/proc/iomem`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reaches_up_to_the_last_offset_but_not_around_it() {
        let top = Span::new(u64::MAX - 1, 1).unwrap();
        assert_eq!(top.end(), u64::MAX);
        let wraps = InputError::SpanWraps {
            offset: u64::MAX,
            size: 1,
        };
        assert_eq!(Span::new(u64::MAX, 1), Err(wraps));
        let wraps = InputError::SpanWraps {
            offset: 1,
            size: u64::MAX,
        };
        assert_eq!(Span::new(1, u64::MAX), Err(wraps));
        assert_eq!(Span::new(0, u64::MAX).unwrap().size(), u64::MAX);
        assert_eq!(Span::new(0, 0), Err(InputError::EmptySpan { offset: 0 }));
    }

    #[test]
    fn touching_spans_do_not_overlap() {
        let low = Span::new(0, 16).unwrap();
        let high = Span::new(16, 16).unwrap();
        assert!(!low.overlaps(high));
        assert_eq!(low.intersection(high), None);
        assert!(low.contains(15) && !low.contains(16));
    }
}
