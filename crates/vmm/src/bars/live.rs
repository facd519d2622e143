// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What VFIO says of a device that it has.

use std::fs;
use std::path::Path;

use bar_report::{Bdf, RegionFact, RegionList, with_causes};
use vfio_private::BarIndex;
use vfio_private::device::{DeviceError, PciAddress};

use crate::assigned::open;

/// The regions of the device, or why VFIO does not say; `None` if VFIO does not
/// have it. `sysfs` says who has it; the device itself is this machine's.
pub(super) fn regions(sysfs: &Path, bdf: Bdf) -> Option<RegionList> {
    let driver = sysfs.join(format!("bus/pci/devices/{bdf}/driver"));
    let driver = fs::read_link(driver).ok()?;
    if !driver.ends_with("vfio-pci") {
        return None;
    }
    let address = bdf.to_string().parse().ok()?;
    Some(match ask(address) {
        Ok(regions) => RegionList::of_vfio(regions),
        Err(error) => RegionList::refused(with_causes(&error)),
    })
}

/// The device is closed again: nothing is left of it but the facts.
fn ask(address: PciAddress) -> Result<Vec<RegionFact>, DeviceError> {
    let device = open(address)?;
    let fact = |index| {
        let info = device.region(index)?;
        Ok(RegionFact {
            index,
            size: info.size,
            region: info.region,
        })
    };
    (0..BarIndex::COUNT.into()).map(fact).collect()
}
