// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: which bytes of which BAR are private, shared, trapped or blocked.
//!
//! The facts about a device come from sysfs (`sysfs`), from raw configuration
//! space, or from the output of `lspci` (`lspci`). VFIO's region info comes from
//! VFIO itself (`live`) or from a file (`regions`). `device` combines them, and
//! [`vfio_private::classify`] decides (`cut`). `text`, `draw` and `json` print
//! the answer with its `notes`.
//!
//! Nothing is guessed: a fact that no source has is an error that names the
//! option that provides it.

mod bdf;
mod capability;
mod cut;
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
mod msix_text;
mod notes;
mod other_device;
mod paste;
mod read;
mod region;
mod regions;
mod sysfs;
mod text;

use std::path::{Path, PathBuf};

use vfio_private::config::ConfigSpace;
use vfio_private::{Msix, OffsetRule, PageSize, Piece, TeeMsixPolicy};

pub use bdf::Bdf;
use cut::{Choice, ReportFile, Subject};
use device::{Facts, Mapped};
pub use error::BarsError;
use error::Fault;
pub use json::json;
pub use notes::{Note, Topic};
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
    /// How to treat MSI-X structures that the report marks as locked.
    pub locked_msix: TeeMsixPolicy,
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
    /// Who said what VFIO lets userspace map.
    pub regions: RegionSource,
    /// The MSI-X structures.
    pub msix: Option<Msix>,
    /// The BARs in ascending order.
    pub bars: Vec<BarAnswer>,
    /// What the answer depends on, and what may be wrong with it.
    pub notes: Vec<Note>,
}

/// Who said what VFIO lets userspace map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// No source: each memory BAR counts as mappable.
    Nobody,
    /// VFIO was asked but did not answer: each memory BAR counts as mappable.
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
    pub details: String,
    /// Its pieces.
    pub pieces: Vec<Piece>,
}

impl Answer {
    /// The notes that apply to a BAR: those of the device, and its own.
    pub fn notes_of(&self, bar: &BarAnswer) -> impl Iterator<Item = &Note> {
        let bar = bar.bar;
        self.notes.iter().filter(move |note| note.concerns(bar))
    }
}

impl RegionSource {
    fn note(&self) -> Note {
        let taken = "each memory BAR is taken as mappable";
        let text = match self {
            Self::File => "what --regions says".to_string(),
            Self::Vfio => "what it says itself".to_string(),
            Self::Nobody => format!("not known (--regions): {taken}"),
            Self::Refused(why) => format!("not known ({why}): {taken}"),
        };
        Note::new(Topic::Regions, text)
    }
}

/// Reads the sources and classifies every BAR.
///
/// # Errors
/// [`BarsError`]: what is wrong with which source, or why a BAR cannot be cut.
pub fn answer(request: &Request) -> Result<Answer, BarsError> {
    let facts = facts(request)?;
    let (source, regions) = regions(request)?;
    let Mapped { bars, notes } = facts.mapped(regions.as_deref())?;
    let subject = Subject {
        bars: &bars,
        msix: facts.msix,
        msix_place: &facts.msix_place,
        regions: request
            .regions
            .as_deref()
            .unwrap_or(Path::new(&facts.source)),
        page: request.page,
        report: request
            .report
            .as_deref()
            .map(ReportFile::read)
            .transpose()?,
    };
    let (pieces, of_report) = subject.cut(Choice {
        rule: request.rule,
        locked_msix: request.locked_msix,
    })?;
    let notes = [vec![source.note()], of_report, notes].concat();
    let of_bar = |(mapped, pieces): (device::MappedBar, Vec<Piece>)| BarAnswer {
        bar: mapped.bar,
        details: mapped.note,
        pieces,
    };
    Ok(Answer {
        name: facts.name,
        page: request.page,
        regions: source,
        msix: facts.msix,
        bars: bars.into_iter().zip(pieces).map(of_bar).collect(),
        notes,
    })
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
            let has_regions = request.regions.is_some();
            let file = || path.display().to_string();
            match read::not_of_text(&bytes) {
                _ if bytes.is_empty() => {
                    let what = "it is empty".into();
                    let file = file();
                    Err(BarsError::File { file, what })
                }
                None => {
                    let text = String::from_utf8_lossy(&bytes);
                    lspci::facts(path, &text, device, has_regions)
                }
                Some(_) if ConfigSpace::has_length(&bytes) => raw_facts(path, &bytes, has_regions),
                Some((line, byte)) => {
                    let what = format!(
                        "byte {byte:#x} is not of text, and {} bytes are no configuration space: \
                         it has 64, 256 or 4096",
                        bytes.len()
                    );
                    Err(Fault::at(line, what).in_file(&file()))
                }
            }
        }
    }
}

fn raw_facts(path: &Path, bytes: &[u8], has_regions: bool) -> Result<Facts, BarsError> {
    let file = path.display().to_string();
    let config = || {
        let config = ConfigSpace::new(bytes)?;
        let registers = config.bars()?;
        let entries = config.enhanced_allocation()?;
        let bars = device::of_config(&registers, &entries);
        let unknown = device::unknown(&bars).filter(|_| !has_regions);
        Ok(Facts {
            name: format!("{file} {}", device::ids(bytes)),
            source: file.clone(),
            bars,
            msix: config.msix()?,
            msix_place: device::msix_place(&file, config),
            notes: device::left_out(&entries)
                .into_iter()
                .chain(unknown)
                .collect(),
        })
    };
    config().map_err(|source| BarsError::Config {
        file: file.clone(),
        source,
    })
}
