// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The type of a memory BAR.

use std::fmt;

/// The addresses that a memory BAR can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressWidth {
    /// Below 1 MiB, which PCI no longer has.
    Low1M,
    /// Below 4 GiB.
    Bits32,
    /// Any address.
    Bits64,
}

/// The type of a memory BAR, as the low bits of its register state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryType {
    /// The addresses that the BAR can have.
    pub width: AddressWidth,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

impl AddressWidth {
    const ALL: [Self; 3] = [Self::Low1M, Self::Bits32, Self::Bits64];

    /// Returns the word that `lspci` prints.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low1M => "low-1M",
            Self::Bits32 => "32-bit",
            Self::Bits64 => "64-bit",
        }
    }
}

impl MemoryType {
    /// Parses the words that `lspci` prints. It also prints the reserved width, `type 3`, which is
    /// not one.
    pub(crate) fn parse(words: &str) -> Option<Self> {
        let (width, prefetchable) = words.split_once(", ")?;
        let mut widths = AddressWidth::ALL.into_iter();
        Some(Self {
            width: widths.find(|known| known.word() == width)?,
            prefetchable: match prefetchable {
                "prefetchable" => true,
                "non-prefetchable" => false,
                _ => return None,
            },
        })
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let non = if self.prefetchable { "" } else { "non-" };
        write!(f, "{}, {non}prefetchable", self.width.word())
    }
}
