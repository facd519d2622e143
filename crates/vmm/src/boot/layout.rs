// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the layouts of all architectures have in common. Pure.

/// The least RAM, for any kernel.
const LEAST_RAM: u64 = 32 << 20;
/// PCI's window ends below 2^46, which page tables of four levels reach.
const MOST_BITS: u32 = 46;

/// Why RAM has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is less than any kernel needs.
    #[error("{memory:#x} bytes of RAM are too few: a kernel needs at least {least:#x}")]
    TooSmall {
        /// The size.
        memory: u64,
        /// The least size.
        least: u64,
    },
    /// The size is not a multiple of a page of the host.
    #[error("{memory:#x} bytes of RAM are not whole pages of {} KiB", page >> 10)]
    Unaligned {
        /// The size.
        memory: u64,
        /// The size of a page.
        page: u64,
    },
    /// RAM does not fit below the PCI window.
    #[error(
        "{memory:#x} bytes of RAM do not fit: the VMM uses {} bits of guest-physical addresses, \
         and the upper half is for PCI",
        used_bits(*bits)
    )]
    TooLarge {
        /// The size.
        memory: u64,
        /// The width of the processor's addresses.
        bits: u32,
    },
}

/// Checks that `memory` bytes of RAM are enough, and whole pages of `page` bytes.
///
/// # Errors
/// [`LayoutError::TooSmall`], [`LayoutError::Unaligned`].
pub fn check_ram(memory: u64, page: u64) -> Result<(), LayoutError> {
    if memory < LEAST_RAM {
        let least = LEAST_RAM;
        return Err(LayoutError::TooSmall { memory, least });
    }
    match memory.is_multiple_of(page) {
        true => Ok(()),
        false => Err(LayoutError::Unaligned { memory, page }),
    }
}

/// The start of the PCI window above RAM, and its size: the upper half of guest-physical
/// addresses of `bits` bits, up to 2^46.
pub fn upper_half(bits: u32) -> u64 {
    1 << (used_bits(bits) - 1)
}

fn used_bits(bits: u32) -> u32 {
    bits.clamp(1, MOST_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_width_that_limits_ram() {
        let text = |bits| {
            let memory = 1 << 46;
            LayoutError::TooLarge { memory, bits }.to_string()
        };
        assert!(text(40).contains(" 40 bits "), "{}", text(40));
        assert!(text(52).contains(" 46 bits "), "{}", text(52));
    }
}
