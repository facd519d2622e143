// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far up in guest-physical memory a machine reaches.

use super::{Action, ActionKind, Kind, Machine, Step};

impl Machine {
    /// The width of addresses that the machine needs, in bits, at most 64: that of
    /// its highest access, and of the highest region before and after each move.
    /// Containers that do not move need none.
    pub fn address_bits(&self) -> u32 {
        let accesses = self
            .accesses()
            .map(|access| u128::from(access.gpa) + access.size as u128);
        let regions = self.regions.iter().enumerate();
        let regions = regions.filter(|(_, region)| !matches!(region.kind, Kind::Container));
        let regions = regions.map(|(number, region)| self.address(number) + region.size);
        let moves = self.steps.iter().filter_map(|step| match step {
            Step::Vmm(Action {
                what: ActionKind::Move { region, to },
                ..
            }) => {
                let moved = &self.regions[*region];
                let parent = moved.place.map_or(0, |place| self.address(place.parent));
                Some(parent + u128::from(*to) + moved.size)
            }
            _ => None,
        });
        let end = accesses.chain(regions).chain(moves).max().unwrap_or(0);
        let last = end.saturating_sub(1);
        (u128::BITS - last.leading_zeros()).min(64)
    }

    /// The address at which a region starts, if its parents are placed.
    fn address(&self, mut number: usize) -> u128 {
        let mut address = 0;
        // A parent comes before its children.
        while let Some(place) = self.regions[number].place {
            address += u128::from(place.at);
            number = place.parent;
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(regions: &str, steps: &str) -> u32 {
        let text = format!("name = \"m\"\n{regions}\n{steps}");
        Machine::from_text("m.toml", &text).unwrap().address_bits()
    }

    #[test]
    fn a_machine_needs_the_width_of_its_highest_region_access_and_move() {
        let low = "[[region]]\nname = \"r\"\nkind = \"ram\"\nat = 0\nsize = \"64K\"\n";
        let high =
            "[[region]]\nname = \"h\"\nkind = \"ram\"\nat = 0xff_ffff_0000\nsize = \"64K\"\n";
        let inner = "[[region]]\nname = \"c\"\nkind = \"container\"\nat = 0x1_0000_0000\nsize = \"1T\"\n\
                     [[region]]\nname = \"i\"\nkind = \"ram\"\nin = \"c\"\nat = 0x1000\nsize = \"64K\"\n";
        let read =
            "[[step]]\ndo = \"read\"\nat = 0x100_0000_0000\nexpect = 0xffff_ffff\nhow = \"mmio\"\n";
        let moved = "[[step]]\ndo = \"move\"\nregion = \"r\"\nto = 0x8000_0000_0000\n";
        let moved_container = "[[step]]\ndo = \"move\"\nregion = \"c\"\nto = 0x1000_0000_0000\n";
        assert_eq!(bits(low, ""), 16);
        assert_eq!(bits(&[low, high].concat(), ""), 40);
        assert_eq!(bits(low, read), 41);
        assert_eq!(bits(low, moved), 48);
        assert_eq!(bits(inner, ""), 33);
        assert_eq!(bits(inner, moved_container), 45);
    }

    #[test]
    fn the_built_in_machine_needs_no_more_than_every_host_has() {
        assert_eq!(Machine::built_in().unwrap().address_bits(), 33);
    }
}
