// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cuts the BARs into pieces by the user's choices, and finds other choices that
//! fit.

use std::path::Path;

use vfio_private::report::MmioRange;
use vfio_private::{
    BarIndex, BarInput, ClassifyError, InterfaceReport, LeftOut, Msix, MsixParts, OffsetRule,
    PageSize, Piece, PlacedReport, Policy, Reason, ReportedRange, TeeMsixPolicy, classify,
};

use super::device::MappedBar;
use super::error::{BarsError, Fault};
use super::notes::{Note, Topic};
use super::{MAX_OTHER, read};

/// The most ranges that a note names.
const MAX_NAMED: usize = 8;

/// The number of vectors less one, in the MSI-X control register.
const MSIX_VECTORS: u16 = 0x7ff;

/// All inputs that decide the pieces, except the choices.
pub(super) struct Subject<'a> {
    pub(super) bars: &'a [MappedBar],
    pub(super) msix: Option<Msix>,
    /// Where MSI-X is described.
    pub(super) msix_place: &'a str,
    /// Where the regions are described.
    pub(super) regions: &'a Path,
    pub(super) page: PageSize,
    pub(super) report: Option<ReportFile>,
}

/// A report and the file that it is from.
pub(super) struct ReportFile {
    file: String,
    report: InterfaceReport,
}

/// What the command line chooses.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) rule: OffsetRule,
    pub(super) locked_msix: TeeMsixPolicy,
}

/// The pieces of each BAR.
type Pieces = Vec<Vec<Piece>>;

impl ReportFile {
    pub(super) fn read(path: &Path) -> Result<Self, BarsError> {
        let file = path.display().to_string();
        match InterfaceReport::parse(&read::whole(path, MAX_OTHER)?) {
            Ok(report) => Ok(Self { file, report }),
            Err(source) => Err(BarsError::Report { file, source }),
        }
    }
}

/// The rule's name on the command line.
const fn name(rule: OffsetRule) -> &'static str {
    match rule {
        OffsetRule::Relative => "relative",
        OffsetRule::Masked => "masked",
    }
}

impl Choice {
    fn with_other_rule(self) -> Self {
        let rule = match self.rule {
            OffsetRule::Relative => OffsetRule::Masked,
            OffsetRule::Masked => OffsetRule::Relative,
        };
        Self { rule, ..self }
    }
}

impl Subject<'_> {
    /// The pieces by `choice`, and notes about what the report says.
    ///
    /// The classifier decides whether the report fits by the other rule: it does
    /// if every BAR can be cut by it.
    pub(super) fn cut(&self, choice: Choice) -> Result<(Pieces, Vec<Note>), BarsError> {
        let Some(report) = &self.report else {
            let none = "no report (--report): nothing is private";
            let pieces = self.pieces(None, choice);
            let pieces = pieces.map_err(|source| self.misfit(source, None))?;
            return Ok((pieces, vec![Note::new(Topic::Report, none)]));
        };
        self.check_vectors(report)?;
        let other = choice.with_other_rule();
        let by_other = self.by(report, other).ok();
        let (pieces, placed) = match self.by(report, choice) {
            Ok(fits) => fits,
            Err(error) => {
                let fits = by_other.is_some().then_some(other);
                return Err(self.with_hints(error, report, choice, fits));
            }
        };
        let used = format!("report, offsets {}", name(choice.rule));
        let mut notes = vec![Note::new(Topic::Report, used)];
        if let Some((other_pieces, _)) = by_other {
            notes.extend(self.ambiguity(&pieces, &other_pieces, other.rule));
        }
        notes.extend(left_out(placed.left_out()));
        notes.extend(locked_elsewhere(placed.left_out()));
        for (mapped, pieces) in self.bars.iter().zip(&pieces) {
            let index = mapped.bar.index();
            notes.extend(locked_open(index, placed.of(index)));
            notes.extend(left_to_guest(index, pieces));
            notes.extend(updatable(index, &report.report.ranges));
        }
        Ok((pieces, notes))
    }

    /// That the report's copy of the MSI-X control register has the device's number of vectors.
    /// It is 0 if the device does not report it.
    fn check_vectors(&self, report: &ReportFile) -> Result<(), BarsError> {
        let (Some(msix), control @ 1..) = (self.msix, report.report.msix_control) else {
            return Ok(());
        };
        let reported = u64::from(control & MSIX_VECTORS) + 1;
        let vectors = msix.table.span.size() / 16;
        if reported == vectors {
            return Ok(());
        }
        let what = format!(
            "the report says that MSI-X has {reported} vectors (offset 0x4), and the device has \
             {vectors} ({}): is it of another device?",
            self.msix_place
        );
        Err(Fault::whole(what).in_file(&report.file))
    }

    fn by(&self, report: &ReportFile, choice: Choice) -> Result<(Pieces, PlacedReport), BarsError> {
        let bars: Vec<_> = self.bars.iter().map(|mapped| mapped.bar).collect();
        let placed = report.report.place(&bars, choice.rule);
        let placed = placed.map_err(|source| BarsError::Place {
            file: report.file.clone(),
            rule: name(choice.rule),
            source,
        })?;
        match self.pieces(Some(&placed), choice) {
            Ok(pieces) => Ok((pieces, placed)),
            Err(source) => Err(self.misfit(source, Some(report))),
        }
    }

    /// The error with the place of the fact that contradicts the others.
    fn misfit(&self, source: ClassifyError, report: Option<&ReportFile>) -> BarsError {
        let place = match (&source, report) {
            (ClassifyError::SparseAreaOutsideBar { .. }, _) => self.regions.display().to_string(),
            (
                ClassifyError::MsixOutsideBar { .. }
                | ClassifyError::MsixInIoBar { .. }
                | ClassifyError::NoRoomForMsix { .. },
                _,
            )
            | (_, None) => self.msix_place.to_string(),
            (_, Some(report)) => report.file.clone(),
        };
        BarsError::Classify { place, source }
    }

    fn pieces(
        &self,
        placed: Option<&PlacedReport>,
        choice: Choice,
    ) -> Result<Pieces, ClassifyError> {
        let policy = Policy::new().with_tee_msix(choice.locked_msix);
        let of_bar = |mapped: &MappedBar| {
            let input = BarInput {
                bar: mapped.bar,
                region: &mapped.region,
                msix: self.msix,
                report: placed.map(|placed| placed.of(mapped.bar.index())),
            };
            classify(&input, self.page, policy)
        };
        self.bars.iter().map(of_bar).collect()
    }

    /// The error, and which other choices would have avoided it.
    fn with_hints(
        &self,
        error: BarsError,
        report: &ReportFile,
        choice: Choice,
        other: Option<Choice>,
    ) -> BarsError {
        let left = Choice {
            locked_msix: TeeMsixPolicy::Private,
            ..choice
        };
        let is_locked = matches!(
            error,
            BarsError::Classify {
                source: ClassifyError::MsixLocked { .. },
                ..
            }
        );
        let mut hints = Vec::new();
        if is_locked && self.by(report, left).is_ok() {
            hints.push("--locked-msix private leaves it to the guest".to_string());
        }
        if let Some(other) = other {
            let other = name(other.rule);
            hints.push(format!("the report fits by --report-offset {other}"));
        }
        match hints.is_empty() {
            true => error,
            false => BarsError::Avoidable {
                error: Box::new(error),
                hint: hints.join("; "),
            },
        }
    }

    /// The note that the other rule also fits, if its pieces differ.
    fn ambiguity(&self, pieces: &Pieces, other: &Pieces, rule: OffsetRule) -> Option<Note> {
        let each = self.bars.iter().zip(pieces.iter().zip(other));
        let differing = each.filter(|(_, (pieces, other))| pieces != other);
        let names: Vec<String> = differing
            .map(|(mapped, _)| mapped.bar.index().to_string())
            .collect();
        (!names.is_empty()).then(|| {
            let text = format!(
                "The report fits by --report-offset {} too, at other offsets of {}: \
                 which is right depends on the device.",
                name(rule),
                names.join(" and ")
            );
            Note::new(Topic::Report, text)
        })
    }
}

/// The ranges that are in no BAR.
fn left_out(ranges: &[LeftOut]) -> Option<Note> {
    let mut names: Vec<String> = ranges
        .iter()
        .take(MAX_NAMED)
        .map(LeftOut::to_string)
        .collect();
    match ranges.len().saturating_sub(MAX_NAMED) {
        0 => {}
        more => names.push(format!("and {more} more")),
    }
    let text = || {
        format!(
            "ranges whose ID is not a BAR number are left out: {}",
            names.join("; ")
        )
    };
    (!names.is_empty()).then(|| Note::new(Topic::Report, text()))
}

/// The note that MSI-X structures are locked by a range without a BAR.
fn locked_elsewhere(ranges: &[LeftOut]) -> Option<Note> {
    let locked = ranges
        .iter()
        .find(|left| left.range.msix() != MsixParts::NONE)?;
    let text = format!(
        "the device has locked the {}, by range {}: it rejects the host's accesses, so \
         trapping may not work; lock without LOCK_MSIX",
        locked.range.msix(),
        locked.n
    );
    Some(Note::new(Topic::Report, text))
}

/// Notes that the host cannot reach MSI-X structures although they are not TEE
/// memory.
fn locked_open(index: BarIndex, ranges: &[ReportedRange]) -> Vec<Note> {
    let locked = ranges.iter().filter(|range| range.locks_host_out());
    let note = |range: &ReportedRange| {
        let text = format!(
            "the device has locked the {} in {}, which is not TEE memory: it rejects the \
             host's accesses, so trapping may not work; lock without LOCK_MSIX",
            range.msix, range.span
        );
        Note::new(Topic::Report, text).of_bar(index)
    };
    let mut notes: Vec<Note> = locked.clone().take(MAX_NAMED).map(note).collect();
    match locked.count().saturating_sub(MAX_NAMED) {
        0 => {}
        more => {
            let text = format!("this also applies to {more} more ranges");
            notes.push(Note::new(Topic::Report, text).of_bar(index));
        }
    }
    notes
}

/// The note that the guest may change the pieces of the BAR later.
fn updatable(index: BarIndex, ranges: &[MmioRange]) -> Option<Note> {
    let is_own = |range: &MmioRange| range.id() == u16::from(index.get()) && range.is_updatable();
    let text = "the guest may switch ranges of this BAR between TEE and non-TEE memory later: this \
                is what they were when the interface was locked";
    ranges
        .iter()
        .any(is_own)
        .then(|| Note::new(Topic::Report, text).of_bar(index))
}

/// The note that the guest writes the MSI-X table.
fn left_to_guest(index: BarIndex, pieces: &[Piece]) -> Option<Note> {
    let is_left = |piece: &Piece| piece.reasons().contains(Reason::MsixLeftToGuest);
    let text = "the MSI-X structures are left to the guest: correct only if the platform \
                restricts the interrupts that a guest can set up";
    pieces
        .iter()
        .any(is_left)
        .then(|| Note::new(Topic::Report, text).of_bar(index))
}
