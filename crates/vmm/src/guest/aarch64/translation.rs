// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address translation at EL1: the format of page tables, and the registers that
//! select it (Arm ARM, D8 and D24).

/// The size of a page table, which determines how much each entry covers. Arm calls
/// it the translation granule. Processors need not have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granule {
    /// Tables of 4 KiB and blocks of 2 MiB.
    Kib4,
    /// Tables of 16 KiB and blocks of 32 MiB.
    Kib16,
}

/// Table descriptor.
pub const TABLE_ENTRY: u64 = 0b11;
/// Block descriptor: accessed, inner shareable, writable at EL1 alone, and
/// attribute 0 of [`MAIR`].
pub const BLOCK_ENTRY: u64 = 1 << 10 | 0b11 << 8 | 0b01;

/// MAIR_EL1: attribute 0 is Normal memory, write-back, for loads and stores.
pub const MAIR: u64 = 0xff;

/// SCTLR_EL1: MMU on, data and instruction caches on, and the bits that are 1 on
/// processors without later extensions. Alignment is not checked.
pub const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 12;

/// The most bits of an address that these page tables can show.
pub const MOST_BITS: u32 = 48;

impl Granule {
    /// The bytes of a table.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Kib4 => 4 << 10,
            Self::Kib16 => 16 << 10,
        }
    }

    /// The bytes that an entry of the lowest table but one covers.
    pub fn block(self) -> u64 {
        self.bytes() / 8 * self.bytes()
    }

    /// The granule to use on a vCPU with this ID_AA64MMFR0_EL1: that of the host's
    /// page size if there is a choice. `None` if it has neither.
    pub fn choose(id_aa64mmfr0: u64, host_page: u64) -> Option<Self> {
        let field = |shift: u32| id_aa64mmfr0 >> shift & 0xf;
        // TGran4 is negative, and TGran16 zero, if there is none.
        let has = |granule: &Self| match granule {
            Self::Kib4 => field(28) < 8,
            Self::Kib16 => field(20) > 0,
        };
        let both = match host_page {
            0x4000 => [Self::Kib16, Self::Kib4],
            _ => [Self::Kib4, Self::Kib16],
        };
        both.into_iter().find(has)
    }

    /// TCR_EL1 for tables of two levels in memory with `bits` address bits.
    pub fn tcr(self, bits: u32) -> u64 {
        // Two tables, each with an index of as many bits, above the block.
        let index = (self.bytes() / 8).ilog2();
        let virtual_bits = self.block().ilog2() + 2 * index;
        let (tg0, tg1) = match self {
            Self::Kib4 => (0b00, 0b10),
            Self::Kib16 => (0b10, 0b01),
        };
        let ips = [32, 36, 40, 42, 44, MOST_BITS];
        let ips = ips.iter().position(|&width| width >= bits);
        let ips = ips.unwrap_or(5) as u64;
        // Walks are inner shareable, and write-back with read and write allocation,
        // as the host has written the tables. There is no upper half.
        let walks = 0b11 << 12 | 0b01 << 10 | 0b01 << 8;
        let no_upper_half = 1 << 23 | tg1 << 30;
        u64::from(64 - virtual_bits) | walks | tg0 << 14 | no_upper_half | ips << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_granule_is_the_hosts_page_if_the_processor_has_both() {
        const BOTH: u64 = 1 << 20;
        const ONLY_4: u64 = 0;
        const ONLY_16: u64 = 0xf << 28 | 1 << 20;
        const NEITHER: u64 = 0xf << 28;
        // With 52 bits of addresses, the fields are one larger.
        const BOTH_52: u64 = 1 << 28 | 2 << 20;
        for (id, page, granule) in [
            (BOTH, 0x1000, Some(Granule::Kib4)),
            (BOTH, 0x4000, Some(Granule::Kib16)),
            (BOTH, 0x1_0000, Some(Granule::Kib4)),
            (BOTH_52, 0x1000, Some(Granule::Kib4)),
            (BOTH_52, 0x4000, Some(Granule::Kib16)),
            (ONLY_4, 0x4000, Some(Granule::Kib4)),
            (ONLY_16, 0x1000, Some(Granule::Kib16)),
            (NEITHER, 0x1000, None),
        ] {
            assert_eq!(Granule::choose(id, page), granule, "{id:#x} {page:#x}");
        }
    }

    #[test]
    fn blocks_are_those_of_the_architecture() {
        assert_eq!(Granule::Kib4.block(), 2 << 20);
        assert_eq!(Granule::Kib16.block(), 32 << 20);
    }

    #[test]
    fn tcr_selects_granule_virtual_width_and_output_width() {
        let fields = |tcr: u64| (tcr & 0x3f, tcr >> 14 & 3, tcr >> 32 & 7);
        for (granule, bits, expected) in [
            (Granule::Kib4, 32, (25, 0, 0)),
            (Granule::Kib4, 39, (25, 0, 2)),
            (Granule::Kib4, 40, (25, 0, 2)),
            (Granule::Kib4, 48, (25, 0, 5)),
            (Granule::Kib16, 42, (17, 2, 3)),
            (Granule::Kib16, 52, (17, 2, 5)),
        ] {
            assert_eq!(fields(granule.tcr(bits)), expected, "{granule:?} {bits}");
        }
    }
}
