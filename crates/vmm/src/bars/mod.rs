// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: which bytes of which BAR are private, shared, trapped or blocked.
//!
//! The facts about a device come from sysfs (`sysfs`), from raw configuration
//! space, or from what `lspci` printed (`lspci`); what VFIO
//! would say from VFIO itself (`live`) or from a file (`regions`). `device` puts them together, and
//! [`vfio_private::classify`] decides. `text`, `draw` and `json` show it.
//!
//! Nothing is guessed: what the sources do not say is an error that names the
//! option that would.

mod bdf;
mod device;
mod draw;
mod enhanced;
mod error;
mod header;
mod hexdump;
mod json;
mod lines;
mod live;
mod lspci;
mod mention;
mod merge;
mod paste;
mod read;
mod region;
mod regions;
mod sysfs;
mod text;

use std::path::{Path, PathBuf};

use vfio_private::config::ConfigSpace;
use vfio_private::{
    BarInput, InterfaceReport, Msix, OffsetRule, PageSize, Piece, Policy, ReportedRange, classify,
};

pub use bdf::Bdf;
use device::{Facts, MappedBar};
pub use error::BarsError;
pub use json::json;
use regions::RegionFact;
pub use text::text;

/// The largest text of `lspci` that is read: the output for some thousand
/// devices with all of their configuration space.
const MAX_TEXT: u64 = 16 << 20;
/// The largest report, and the largest list of regions.
const MAX_OTHER: u64 = 1 << 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The device: in sysfs, or among several in the text.
    pub device: Option<Bdf>,
    /// Configuration space, or the text of `lspci`; without it, sysfs is asked.
    pub config: Option<PathBuf>,
    /// What VFIO would say of the regions.
    pub regions: Option<PathBuf>,
    /// The bytes of a TDISP interface report.
    pub report: Option<PathBuf>,
    /// How the report's pages become offsets.
    pub rule: OffsetRule,
    /// The page size of the host.
    pub page: PageSize,
    /// Where sysfs is.
    pub sysfs: PathBuf,
}

/// The answer for one device.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The device as its source names it.
    pub name: String,
    /// The page size of the host.
    pub page: PageSize,
    /// The rule that the report was placed by; `None` without a report.
    pub rule: Option<OffsetRule>,
    /// The other rule would have placed the report as well, elsewhere.
    pub is_ambiguous: bool,
    /// Who said what VFIO lets userspace map.
    pub regions: RegionSource,
    /// The MSI-X structures.
    pub msix: Option<Msix>,
    /// The BARs in ascending order.
    pub bars: Vec<BarAnswer>,
    /// I/O BARs whose size is not known. They trap whatever it is.
    pub unsized_io_bars: Vec<u8>,
    /// What else is to be known of the device.
    pub notes: Vec<String>,
}

/// Who said what VFIO lets userspace map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// Nobody: each memory BAR counts as mappable.
    Nobody,
    /// VFIO could be asked, and did not answer. Likewise.
    Refused(String),
    /// A list in a file.
    File,
    /// VFIO.
    Vfio,
}

/// The answer for one BAR.
#[derive(Clone, Debug)]
pub struct BarAnswer {
    /// The BAR.
    pub bar: vfio_private::Bar,
    /// What else its source says: width, prefetchable.
    pub note: String,
    /// Its pieces.
    pub pieces: Vec<Piece>,
    /// What else is to be known of it.
    pub notes: Vec<String>,
}

/// Reads the sources and classifies every BAR.
///
/// # Errors
/// [`BarsError`]: what is wrong with which source, or why a BAR cannot be cut.
pub fn answer(request: &Request) -> Result<Answer, BarsError> {
    let facts = facts(request)?;
    let (source, regions) = regions(request)?;
    let (bars, unsized_io_bars) = facts.mapped(regions.as_deref())?;
    let report = match &request.report {
        None => None,
        Some(path) => Some(placed(path, &bars, request.rule)?),
    };
    let mut answer = Answer {
        name: facts.name,
        page: request.page,
        rule: report.is_some().then_some(request.rule),
        is_ambiguous: report.as_ref().is_some_and(|report| report.is_ambiguous),
        regions: source,
        msix: facts.msix,
        bars: Vec::new(),
        unsized_io_bars,
        notes: facts.notes,
    };
    for mapped in bars {
        let MappedBar {
            bar,
            region,
            note,
            notes,
        } = mapped;
        let input = BarInput {
            bar,
            region: &region,
            msix: facts.msix,
            report: report.as_ref().map(|report| report.of(bar)),
        };
        let pieces = classify(&input, request.page, Policy::default())?;
        answer.bars.push(BarAnswer {
            bar,
            note,
            pieces,
            notes,
        });
    }
    Ok(answer)
}

/// The file wins over VFIO, which is asked of a device of this machine only.
fn regions(request: &Request) -> Result<(RegionSource, Option<Vec<RegionFact>>), BarsError> {
    if let Some(path) = &request.regions {
        let regions = regions::read(path, &read::whole(path, MAX_OTHER)?)?;
        return Ok((RegionSource::File, Some(regions)));
    }
    let live = match (&request.config, request.device) {
        (None, Some(device)) => live::regions(&request.sysfs, device),
        _ => None,
    };
    Ok(match live {
        None => (RegionSource::Nobody, None),
        Some(Err(why)) => (RegionSource::Refused(why), None),
        Some(Ok(regions)) => (RegionSource::Vfio, Some(regions)),
    })
}

fn facts(request: &Request) -> Result<Facts, BarsError> {
    match (&request.config, request.device) {
        (None, None) => Err(BarsError::NoDevice),
        (None, Some(device)) => sysfs::facts(&request.sysfs, device),
        (Some(path), device) => {
            let bytes = read::whole(path, MAX_TEXT)?;
            match read::is_text(&bytes) {
                _ if bytes.is_empty() => Err(BarsError::File {
                    file: path.display().to_string(),
                    what: "it is empty".into(),
                }),
                true => lspci::facts(path, &String::from_utf8_lossy(&bytes), device),
                false => raw_facts(path, &bytes),
            }
        }
    }
}

fn raw_facts(path: &Path, bytes: &[u8]) -> Result<Facts, BarsError> {
    let config = || {
        let config = ConfigSpace::new(bytes)?;
        Ok(Facts {
            name: format!("{} {}", path.display(), device::ids(bytes)),
            source: path.display().to_string(),
            bars: device::of_registers(&config.bars()?),
            msix: config.msix()?,
            notes: Vec::new(),
        })
    };
    config().map_err(|source| BarsError::Config {
        file: path.display().to_string(),
        source,
    })
}

/// A report with its ranges in the BARs.
struct Placed {
    report: vfio_private::PlacedReport,
    is_ambiguous: bool,
}

impl Placed {
    fn of(&self, bar: vfio_private::Bar) -> &[ReportedRange] {
        self.report.of(bar.index())
    }
}

fn placed(path: &Path, bars: &[MappedBar], rule: OffsetRule) -> Result<Placed, BarsError> {
    let file = path.display().to_string();
    let report = match InterfaceReport::parse(&read::whole(path, MAX_OTHER)?) {
        Ok(report) => report,
        Err(source) => return Err(BarsError::Report { file, source }),
    };
    let bars: Vec<_> = bars.iter().map(|mapped| mapped.bar).collect();
    let other = match rule {
        OffsetRule::Relative => OffsetRule::Masked,
        OffsetRule::Masked => OffsetRule::Relative,
    };
    let other = report.place(&bars, other);
    match report.place(&bars, rule) {
        Ok(report) => Ok(Placed {
            is_ambiguous: other.is_ok_and(|other| other != report),
            report,
        }),
        Err(source) => Err(BarsError::Place {
            file,
            rule: text::rule(rule),
            source,
        }),
    }
}
