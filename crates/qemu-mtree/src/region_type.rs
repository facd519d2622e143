// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What QEMU prints as the type of a region.

/// What a region prints as. For an alias: what its target prints as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionType {
    /// `container`: not memory, and lies in no other region. It says nothing
    /// about whether the region answers accesses. Only newer QEMUs print it.
    Container,
    /// `i/o`: not memory.
    Io,
    /// `ram`.
    Ram,
    /// `rom`: RAM that is read-only.
    Rom,
    /// `romd`: a ROM device whose reads are direct.
    RomDevice,
    /// `ramd`: a device's memory.
    DeviceRam,
}

impl RegionType {
    /// The type as QEMU prints it.
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

    /// Whether the region has bytes of its own.
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
