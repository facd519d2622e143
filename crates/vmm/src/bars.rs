// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: which bytes of which BAR are private, shared, trapped or blocked.
//!
//! [`bar_report`] reads the files and makes the report. This module adds what
//! needs an open device: VFIO's own list of what userspace may map.

use std::fs;
use std::path::{Path, PathBuf};

use bar_report::{
    BarReport, BarReportError, Bdf, DeviceFacts, Reader, RegionFact, RegionList, ReportOptions,
    TdispReport, Wording, with_causes,
};
use vfio_private::device::{DeviceError, PciAddress};
use vfio_private::{BarIndex, OffsetRule, PageSize, TeeMsixPolicy};

use crate::devices::assigned::open;

/// The files, the device and the options of a report.
#[derive(Clone, Debug)]
pub struct Request {
    /// The device: in sysfs, or among several in the text.
    pub device: Option<Bdf>,
    /// Configuration space, or the text of `lspci`; without it, sysfs is read.
    pub config: Option<PathBuf>,
    /// VFIO's description of the regions, as a file.
    pub regions: Option<PathBuf>,
    /// The bytes of a TDISP interface report.
    pub report: Option<PathBuf>,
    /// How the report's pages become offsets.
    pub rule: OffsetRule,
    /// How to treat MSI-X structures that the report marks as locked.
    pub locked_msix: TeeMsixPolicy,
    /// The page size of the host.
    pub page: PageSize,
    /// Where sysfs is.
    pub sysfs: PathBuf,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarsError {
    /// Neither a device nor a file was named.
    #[error("no device: name one by its address, or give --config FILE")]
    NoDevice,
    /// The files do not make a report.
    #[error(transparent)]
    Report(#[from] BarReportError),
}

/// The names of inputs and choices in messages: the options of `vmm bars`.
const WORDING: Wording = Wording {
    regions: "--regions",
    give_regions: "--regions FILE.json",
    no_regions: "--regions",
    as_device: " as --config",
    device_takes: "--config takes",
    no_report: "no report (--report)",
    relative: "--report-offset relative",
    masked: "--report-offset masked",
    private_msix: "--locked-msix private",
};

/// Reads the sources and classifies every BAR.
///
/// # Errors
/// [`BarsError`]: what is wrong in which source, or why a BAR cannot be cut.
pub fn report(request: &Request) -> Result<BarReport, BarsError> {
    let bars = facts(request)?.bars(&regions(request)?)?;
    let tdisp = request.report.as_deref().map(TdispReport::read);
    let options = ReportOptions {
        page: request.page,
        tdisp: tdisp.transpose()?,
        rule: request.rule,
        locked_msix: request.locked_msix,
    };
    Ok(bars.report(&options)?)
}

fn facts(request: &Request) -> Result<DeviceFacts, BarsError> {
    let reader = Reader::with_wording(WORDING);
    match (&request.config, request.device) {
        (None, None) => Err(BarsError::NoDevice),
        (None, Some(device)) => Ok(reader.sysfs(&request.sysfs, device)?),
        (Some(path), device) => Ok(reader.file(path, device)?),
    }
}

/// The list in the file; without one, VFIO's for a device of this machine.
fn regions(request: &Request) -> Result<RegionList, BarsError> {
    if let Some(path) = &request.regions {
        return Ok(RegionList::read(path)?);
    }
    let live = match (&request.config, request.device) {
        (None, Some(device)) => live_regions(&request.sysfs, device),
        _ => None,
    };
    Ok(live.unwrap_or_else(RegionList::unknown))
}

/// The regions of the device, or why VFIO does not list them; `None` if the device
/// is not bound to vfio-pci. `sysfs` names the driver; the device is this machine's.
fn live_regions(sysfs: &Path, bdf: Bdf) -> Option<RegionList> {
    let driver = sysfs.join(format!("bus/pci/devices/{bdf}/driver"));
    let driver = fs::read_link(driver).ok()?;
    if !driver.ends_with("vfio-pci") {
        return None;
    }
    let address = bdf.to_string().parse().ok()?;
    Some(match vfio_regions(address) {
        Ok(regions) => RegionList::of_vfio(regions),
        Err(error) => RegionList::refused(with_causes(&error)),
    })
}

/// Opens the device, reads its regions and closes it.
fn vfio_regions(address: PciAddress) -> Result<Vec<RegionFact>, DeviceError> {
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
