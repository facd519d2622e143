// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pseudo-random numbers.

/// A stream that depends only on its seed, which is not 0.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number, of 64 bits. The low ones are less random.
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64 (Marsaglia).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
}
