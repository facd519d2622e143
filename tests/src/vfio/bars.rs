// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars` on a device that is bound to vfio-pci.

use bar_report::{BarReport, RegionSource};
use vfio_private::device::VfioInterface;
use vfio_private::{OffsetRule, TeeMsixPolicy};
use vmm::bars::{Request, report};

use super::regions::bars;
use super::{Model, at, same};
use crate::subject::host_pages;

/// It reports what VFIO says. While the device is open elsewhere it cannot ask,
/// and reports that.
pub fn asks_vfio() -> Result<(), String> {
    let asked = ask(Model::Nvme)?;
    same("the source", &asked.regions, &RegionSource::Vfio)?;
    let device = Model::Nvme.open(VfioInterface::LegacyGroup)?;
    let due = bars(&device)?;
    same("the number of BARs", asked.bars.len(), due.len())?;
    for (asked, due) in asked.bars.iter().zip(&due) {
        same("a BAR", asked.bar, due.bar)?;
        same("its pieces", &asked.pieces, &due.pieces)?;
    }
    match ask(Model::Nvme)?.regions {
        RegionSource::Refused(why) if why.contains("/dev/vfio/") => Ok(()),
        other => Err(format!("of an open device: {other:?}")),
    }
}

/// Runs `vmm bars` on a device.
pub(super) fn ask(model: Model) -> Result<BarReport, String> {
    let device = model.bound()?.to_string();
    let request = Request {
        device: Some(device.parse().map_err(at("its address"))?),
        config: None,
        regions: None,
        report: None,
        rule: OffsetRule::Relative,
        locked_msix: TeeMsixPolicy::Refuse,
        page: host_pages(),
        sysfs: "/sys".into(),
    };
    report(&request).map_err(at("vmm bars"))
}
