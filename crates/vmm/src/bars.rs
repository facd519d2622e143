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

/// This machine's sysfs.
const SYSFS: &str = "/sys";

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
    report_on(request, Path::new(SYSFS), live_regions)
}

/// As [`report`], on the machine that has this sysfs. `live_regions` queries VFIO
/// about one of its devices.
fn report_on(
    request: &Request,
    own_sysfs: &Path,
    live_regions: impl FnOnce(Bdf) -> Option<RegionList>,
) -> Result<BarReport, BarsError> {
    let facts = facts(request)?;
    let tdisp = request.report.as_deref().map(TdispReport::read);
    let options = ReportOptions {
        page: request.page,
        tdisp: tdisp.transpose()?,
        rule: request.rule,
        locked_msix: request.locked_msix,
    };
    // Last, because it resets the device.
    let regions = match &request.regions {
        Some(path) => RegionList::read(path)?,
        None => to_open(request, own_sysfs)
            .and_then(live_regions)
            .unwrap_or_else(RegionList::unknown),
    };
    Ok(facts.bars(&regions)?.report(&options)?)
}

fn facts(request: &Request) -> Result<DeviceFacts, BarsError> {
    let reader = Reader::with_wording(WORDING);
    match (&request.config, request.device) {
        (None, None) => Err(BarsError::NoDevice),
        (None, Some(device)) => Ok(reader.sysfs(&request.sysfs, device)?),
        (Some(path), device) => Ok(reader.file(path, device)?),
    }
}

/// The device of this machine that VFIO can be queried about. A copy of sysfs may
/// be of another machine.
fn to_open(request: &Request, own_sysfs: &Path) -> Option<Bdf> {
    let is_own = request.config.is_none() && request.sysfs == own_sysfs;
    request.device.filter(|_| is_own)
}

/// The regions of a device of this machine, or why VFIO does not list them; `None` if
/// the device is not bound to vfio-pci.
fn live_regions(bdf: Bdf) -> Option<RegionList> {
    let driver = format!("{SYSFS}/bus/pci/devices/{bdf}/driver");
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

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "0000:01:00.0";

    /// A request about a device in the folder, which is made.
    fn of_sysfs(folder: &Path) -> Request {
        let device = folder.join("bus/pci/devices").join(DEVICE);
        fs::create_dir_all(&device).unwrap();
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".repeat(5);
        let first = "0x00000000f7c00000 0x00000000f7c03fff 0x0000000000140204\n";
        fs::write(device.join("resource"), format!("{first}{none}")).unwrap();
        let config = [&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat();
        fs::write(device.join("config"), config).unwrap();
        Request {
            device: Some(DEVICE.parse().unwrap()),
            config: None,
            regions: None,
            report: None,
            rule: OffsetRule::Relative,
            locked_msix: TeeMsixPolicy::Refuse,
            page: PageSize::Size4K,
            sysfs: folder.into(),
        }
    }

    #[test]
    fn a_device_in_a_copy_of_sysfs_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let request = of_sysfs(folder.path());
        let report = report_on(&request, Path::new(SYSFS), |_| panic!("it is opened"));
        assert_eq!(report.unwrap().bars.len(), 1);
    }

    #[test]
    fn a_device_of_this_machine_is_opened_only_after_all_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut request = of_sysfs(folder.path());
        let mut opened = Vec::new();
        let mut open = |device| {
            opened.push(device);
            None
        };
        report_on(&request, folder.path(), &mut open).unwrap();
        request.report = Some(folder.path().join("missing.report"));
        report_on(&request, folder.path(), &mut open).unwrap_err();
        assert_eq!(opened, [DEVICE.parse().unwrap()]);
    }
}
