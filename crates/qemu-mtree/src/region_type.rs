// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The type that QEMU prints for a region.

/// The type that QEMU prints for a region. For an alias, it is the type of its
/// target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionType {
    /// `container`: a region that is not memory and has no parent. It may or
    /// may not answer accesses. Only newer versions of QEMU print it.
    Container,
    /// `i/o`: a region that is not memory.
    Io,
    /// `ram`: RAM.
    Ram,
    /// `rom`: read-only RAM.
    Rom,
    /// `romd`: a ROM device whose reads are direct.
    RomDevice,
    /// `ramd`: a device's memory.
    DeviceRam,
}

impl RegionType {
    /// Returns the type as QEMU prints it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Io => "i/o",
            Self::Ram => "ram",
            Self::Rom => "rom",
            Self::RomDevice => "romd",
            Self::DeviceRam => "ramd",
        }
    }

    /// Returns whether the region has bytes of its own.
    pub fn is_memory(self) -> bool {
        !matches!(self, Self::Container | Self::Io)
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [
            Self::Container,
            Self::Io,
            Self::Ram,
            Self::Rom,
            Self::RomDevice,
            Self::DeviceRam,
        ]
        .into_iter()
        .find(|kind| kind.word() == word)
    }
}
